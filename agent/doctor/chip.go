package doctor

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/counter"
)

// Chip is what a TPM says of itself, by reading alone.
type Chip struct {
	tpm.Info
	Revision uint32           `json:"revision"` // of the TPM 2.0 specification, 159 is 1.59
	EK       []EKCertificate  `json:"ek"`
	SRK      string           `json:"srk"`           // at its persistent handle: "none", "standard", or "other"
	Counter  bool             `json:"epoch_counter"` // there is an NV index where it belongs
	PCRs     map[int][32]byte `json:"-"`             // 0 to 14, nil without the SHA-256 bank
}

// EKCertificate is a certificate that the chip's maker left.
type EKCertificate struct {
	Kind      string    `json:"kind"`
	Index     uint32    `json:"index"`
	Issuer    string    `json:"issuer,omitempty"`
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	Problem   string    `json:"problem,omitempty"` // why it can't be read
}

const handleSRK = 0x81000001 // TCG Registry of Reserved TPM 2.0 Handles, 2.3

// ReadChip asks a chip with commands that change nothing in it: none that creates,
// loads, writes or extends, and none that uses a password other than an empty one of
// an index that the dictionary attack protection does not watch.
func ReadChip(ctx context.Context, t *tpm.TPM) (*Chip, error) {
	info, err := t.Info(ctx)
	if err != nil {
		return nil, err
	}
	c := &Chip{Info: info}
	if info.SHA256Bank {
		if c.PCRs, err = t.ReadPCRs(ctx, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}); err != nil {
			return nil, err
		}
	}
	err = t.Do(ctx, "read endorsement certificates and storage key", func(chip *tpm.Chip) error {
		for _, place := range ekPlaces() {
			c.readEK(chip, place)
		}
		for _, read := range []func(*tpm.Chip) error{c.readSRK, c.readRevision} {
			if err := read(chip); err != nil {
				return err
			}
		}
		_, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(counter.Index)}.Execute(chip)
		c.Counter = err == nil
		return ignore(err, tpm2.TPMRCHandle)
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// ignore takes an answer of the chip that is expected for no error.
func ignore(err error, code tpm2.TPMRC) error {
	if errors.Is(err, code) {
		return nil
	}
	return err
}

type ekPlace struct {
	kind  string
	index tpm2.TPMHandle
}

// ekPlaces are those of package tpm (TCG EK Credential Profile 2.5, 2.2.1.4 and
// annex B).
func ekPlaces() []ekPlace {
	return []ekPlace{
		{"ecc-p256", 0x01c0000a}, {"ecc-p256", 0x01c00014}, {"rsa2048", 0x01c00002}, {"rsa2048", 0x01c00012}, {"ecc-p384", 0x01c00016},
	}
}

// readEK notes what is wrong with one place, which must not hide the others.
func (c *Chip) readEK(chip *tpm.Chip, place ekPlace) {
	ek := EKCertificate{Kind: place.kind, Index: uint32(place.index)}
	data, err := readIndex(chip, place.index)
	switch {
	case err != nil:
		ek.Problem = err.Error()
	case data == nil:
		return
	default:
		ek.parse(data)
	}
	c.EK = append(c.EK, ek)
}

// readIndex is nil if there is no such index, or it was never filled.
func readIndex(chip *tpm.Chip, index tpm2.TPMHandle) ([]byte, error) {
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(chip)
	if err != nil {
		return nil, ignore(err, tpm2.TPMRCHandle)
	}
	area, err := public.NVPublic.Contents()
	switch {
	case err != nil || !area.Attributes.Written:
		return nil, err
	case !area.Attributes.AuthRead || !area.Attributes.NoDA:
		return nil, errors.New("it can't be read without a password that could be wrong")
	}
	return readNV(chip, index, public.NVName, int(area.DataSize))
}

func readNV(chip *tpm.Chip, index tpm2.TPMHandle, name tpm2.TPM2BName, size int) ([]byte, error) {
	const piece = 512 // bytes; chips give at least that
	data := make([]byte, 0, size)
	for len(data) < size {
		rsp, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: index, Name: name, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: name},
			Size:       uint16(min(piece, size-len(data))), Offset: uint16(len(data)),
		}.Execute(chip)
		if err != nil {
			return nil, err
		}
		if len(rsp.Data.Buffer) == 0 {
			return nil, fmt.Errorf("read NV index %#x: no data", uint32(index))
		}
		data = append(data, rsp.Data.Buffer...)
	}
	return data, nil
}

// parse reads a certificate; makers pad it up to the size of the index.
func (ek *EKCertificate) parse(data []byte) {
	if len(data) >= 4 && data[0] == 0x30 && data[1] == 0x82 {
		if size := 4 + int(data[2])<<8 + int(data[3]); size <= len(data) {
			data = data[:size]
		}
	}
	certificate, err := x509.ParseCertificate(data)
	if err != nil {
		ek.Problem = err.Error()
		return
	}
	ek.Issuer, ek.NotBefore, ek.NotAfter = certificate.Issuer.String(), certificate.NotBefore, certificate.NotAfter
}

func (c *Chip) readSRK(chip *tpm.Chip) error {
	c.SRK = "none"
	if !slices.Contains(c.Persistent, handleSRK) {
		return nil
	}
	rsp, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(handleSRK)}.Execute(chip)
	if err != nil {
		return err
	}
	public, err := rsp.OutPublic.Contents()
	if err != nil {
		return err
	}
	c.SRK = "other"
	for _, standard := range []tpm2.TPMTPublic{tpm2.ECCSRKTemplate, tpm2.RSASRKTemplate} {
		if standard.Type == public.Type {
			standard.Unique = public.Unique
			if bytes.Equal(tpm2.Marshal(standard), tpm2.Marshal(*public)) {
				c.SRK = "standard"
			}
		}
	}
	return nil
}

func (c *Chip) readRevision(chip *tpm.Chip) error {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(tpm2.TPMPTRevision), PropertyCount: 1}.Execute(chip)
	if err != nil {
		return err
	}
	list, err := rsp.CapabilityData.Data.TPMProperties()
	if err == nil && len(list.TPMProperty) == 1 {
		c.Revision = list.TPMProperty[0].Value
	}
	return err
}
