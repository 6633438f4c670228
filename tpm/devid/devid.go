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
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/tpm"
)

// Reserved ranges (TCG Registry of Reserved TPM 2.0 Handles and Localities).
const (
	firstKey, lastKey                 = tpm2.TPMHandle(0x81020000), tpm2.TPMHandle(0x8102ffff)
	firstCertificate, lastCertificate = tpm2.TPMHandle(0x01c90000), tpm2.TPMHandle(0x01c9ffff)
)

// Role says what an identity's key may sign.
type Role string

const (
	RoleIDevID  Role = "idevid"  // any data: who the device is
	RoleIAK     Role = "iak"     // only what the chip itself made: quotes, certifications
	RoleUnknown Role = "unknown" // a certificate without its key, or a key that signs nothing
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

// IAK is the maker's attestation key of P-256 with a certificate, nil if there is none.
// Of a chip without keys in the range it asks nothing that its connection does not
// know. tpm.CertifyBy has it state that another key is in the same chip.
func IAK(ctx context.Context, t *tpm.TPM) (*Identity, error) {
	var iak *Identity
	err := t.Do(ctx, "find attestation key of the maker", func(c *tpm.Chip) error {
		persistent, err := c.Persistent()
		if err != nil || !slices.ContainsFunc(persistent, func(h tpm2.TPMHandle) bool { return h >= firstKey && h <= lastKey }) {
			return err
		}
		found, err := find(c)
		for _, f := range found {
			if area, _ := tpm2.Unmarshal[tpm2.TPMTPublic](f.Public); f.Role == RoleIAK && f.Certificate != nil && p256(area) {
				iak = &f
				break
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return iak, nil
}

func p256(area *tpm2.TPMTPublic) bool {
	ecc, err := area.Parameters.ECCDetail()
	return area.Type == tpm2.TPMAlgECC && err == nil && ecc.CurveID == tpm2.TPMECCNistP256
}

func find(c *tpm.Chip) ([]Identity, error) {
	list, err := keys(c)
	if err != nil {
		return nil, err
	}
	indexes, err := c.Handles(firstCertificate, lastCertificate)
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
	places, err := c.Handles(firstKey, lastKey)
	if err != nil {
		return nil, err
	}
	var list []Identity
	for _, handle := range places {
		var rsp *tpm2.ReadPublicResponse
		err := c.Room(func() (err error) { // chips load a copy of a persistent key
			rsp, err = tpm2.ReadPublic{ObjectHandle: handle}.Execute(c)
			return err
		})
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
		return RoleUnknown
	case a.Restricted:
		return RoleIAK
	}
	return RoleIDevID
}

// join puts a certificate to the key that it names, or by itself.
func join(list []Identity, der []byte, index uint32) []Identity {
	for i := range list {
		if list[i].Certificate == nil && names(der, list[i].Public) {
			list[i].Certificate, list[i].Index = der, index
			return list
		}
	}
	return append(list, Identity{Role: RoleUnknown, Certificate: der, Index: index})
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

// readCertificate is nil if the index can't be read by everybody, was never written, or
// holds something else: policies are kept in the same range.
func readCertificate(c *tpm.Chip, index tpm2.TPMHandle) ([]byte, error) {
	data, err := c.ReadIndex(index)
	for _, unreadable := range []tpm2.TPMRC{
		tpm2.TPMRCNVUninitialized, tpm2.TPMRCNVAuthorization, tpm2.TPMRCNVLocked, tpm2.TPMRCAuthFail, tpm2.TPMRCBadAuth, tpm2.TPMRCAuthUnavailable,
	} {
		if errors.Is(err, unreadable) {
			return nil, nil
		}
	}
	if err != nil {
		return nil, err
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
