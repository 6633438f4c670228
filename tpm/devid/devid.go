// Package devid finds the identities that a machine's maker left in its TPM: IDevID
// and IAK (TCG, TPM 2.0 Keys for Device Identity and Attestation, 1.0; IEEE 802.1AR).
//
// Its promise: what it returns was read from the ranges that the TCG reserves for
// them, a certificate and a key that belong together are returned together, and
// nothing in the chip is changed. It does not say that a maker is to be trusted: that
// is for who verifies the certificate.
package devid

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/tpm"
)

// Reserved ranges (TCG Registry of Reserved TPM 2.0 Handles and Localities).
const (
	firstKey, lastKey                 = tpm2.TPMHandle(0x81020000), tpm2.TPMHandle(0x8102ffff)
	firstCertificate, lastCertificate = tpm2.TPMHandle(0x01c90000), tpm2.TPMHandle(0x01c9ffff)
)

// Limits on what a chip says.
const (
	maxHandles = 32      // of one range, count
	maxIndex   = 8 << 10 // bytes of an NV index
	chunk      = 512     // bytes of one TPM2_NV_Read: all chips give that
)

// Role says what an identity's key may sign.
type Role string

const (
	IDevID  Role = "idevid"  // any data: who the device is
	IAK     Role = "iak"     // only what the chip itself made: quotes, certifications
	Unknown Role = "unknown" // a certificate without its key, or a key that signs nothing
)

// Identity is a certificate with its key, or one of them where the other is missing.
type Identity struct {
	Role        Role
	Certificate []byte // DER without padding, or nil
	Index       uint32 // NV index of the certificate, or 0
	Handle      uint32 // persistent handle of the key; 0 if the maker left none: it is derived by a template then
	Public      []byte // TPMT_PUBLIC of the key, or nil
}

// Find lists the identities in the chip; none is no error.
func Find(ctx context.Context, t *tpm.TPM) ([]Identity, error) {
	var found []Identity
	err := t.Do(ctx, "find device identities", func(c *tpm.Chip) (err error) {
		found, err = find(c)
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

func find(c *tpm.Chip) ([]Identity, error) {
	list, err := keys(c)
	if err != nil {
		return nil, err
	}
	indexes, err := handles(c, firstCertificate, lastCertificate)
	if err != nil {
		return nil, err
	}
	for _, index := range indexes {
		der, err := readCertificate(c, index)
		if err != nil {
			return nil, err
		}
		if der != nil {
			list = join(list, der, uint32(index))
		}
	}
	return list, nil
}

// keys lists the persistent keys of the range.
func keys(c *tpm.Chip) ([]Identity, error) {
	places, err := handles(c, firstKey, lastKey)
	if err != nil {
		return nil, err
	}
	var list []Identity
	for _, handle := range places {
		rsp, err := tpm2.ReadPublic{ObjectHandle: handle}.Execute(c)
		if err != nil {
			return nil, err
		}
		area, err := rsp.OutPublic.Contents()
		if err != nil {
			return nil, err
		}
		list = append(list, Identity{Role: role(*area), Handle: uint32(handle), Public: tpm2.Marshal(*area)})
	}
	return list, nil
}

func role(area tpm2.TPMTPublic) Role {
	switch a := area.ObjectAttributes; {
	case !a.SignEncrypt || !a.FixedTPM:
		return Unknown
	case a.Restricted:
		return IAK
	}
	return IDevID
}

// join puts a certificate to the key that it names, or by itself.
func join(list []Identity, der []byte, index uint32) []Identity {
	for i := range list {
		if list[i].Certificate == nil && names(der, list[i].Public) {
			list[i].Certificate, list[i].Index = der, index
			return list
		}
	}
	return append(list, Identity{Role: Unknown, Certificate: der, Index: index})
}

// names tells whether a certificate is of a key.
func names(der, public []byte) bool {
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return false
	}
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](public)
	if err != nil {
		return false
	}
	key, err := tpm2.Pub(*area)
	if err != nil {
		return false
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	return err == nil && bytes.Equal(spki, parsed.RawSubjectPublicKeyInfo)
}

// handles lists what the chip has in a range.
func handles(c *tpm.Chip, first, last tpm2.TPMHandle) ([]tpm2.TPMHandle, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: uint32(first), PropertyCount: maxHandles}.Execute(c)
	if err != nil {
		return nil, err
	}
	list, err := rsp.CapabilityData.Data.Handles()
	if err != nil {
		return nil, err
	}
	var own []tpm2.TPMHandle
	for _, h := range list.Handle {
		if h >= first && h <= last {
			own = append(own, h)
		}
	}
	return own, nil
}

// readCertificate is nil if the index can't be read by everybody, was never written, or
// holds something else: policies are kept in the same range.
func readCertificate(c *tpm.Chip, index tpm2.TPMHandle) ([]byte, error) {
	rsp, err := tpm2.NVReadPublic{NVIndex: index}.Execute(c)
	if err != nil {
		return nil, err
	}
	area, err := rsp.NVPublic.Contents()
	if err != nil {
		return nil, err
	}
	if !area.Attributes.AuthRead || !area.Attributes.Written || area.DataSize > maxIndex {
		return nil, nil
	}
	data := make([]byte, 0, area.DataSize)
	for len(data) < int(area.DataSize) {
		want := min(chunk, int(area.DataSize)-len(data))
		part, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: index, Name: rsp.NVName, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: rsp.NVName},
			Size:       uint16(want),
			Offset:     uint16(len(data)),
		}.Execute(c)
		if errors.Is(err, tpm2.TPMRCNVAuthorization) || errors.Is(err, tpm2.TPMRCNVLocked) || errors.Is(err, tpm2.TPMRCAuthFail) || errors.Is(err, tpm2.TPMRCBadAuth) {
			return nil, nil // read only with a password that we don't have
		}
		if err != nil {
			return nil, err
		}
		if len(part.Data.Buffer) != want {
			return nil, fmt.Errorf("read NV index %#x: %d bytes for %d", uint32(index), len(part.Data.Buffer), want)
		}
		data = append(data, part.Data.Buffer...)
	}
	return certificate(data), nil
}

// certificate cuts padding off; nil if there is none.
func certificate(data []byte) []byte {
	var raw asn1.RawValue
	if _, err := asn1.Unmarshal(data, &raw); err != nil {
		return nil
	}
	if _, err := x509.ParseCertificate(raw.FullBytes); err != nil {
		return nil
	}
	return raw.FullBytes
}
