package tpm

import (
	"context"
	"encoding/binary"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// Info is what a chip says of itself.
type Info struct {
	Manufacturer    string // four letters of the TCG vendor registry, "INTC"
	Vendor          string // the maker's free text
	FirmwareVersion uint64
	LockoutCounter  uint32 // failed authorisations that count, now
	MaxAuthFail     uint32 // at this many the chip locks itself
	ResetCount      uint32 // power cycles since the chip was cleared
	RestartCount    uint32 // resumes since the last reset
	ClockMs         uint64 // milliseconds of powered time since the chip was cleared
	SHA256Bank      bool   // the SHA-256 bank of PCRs is on
}

// Info reads the properties of the chip, with a few commands.
func (t *TPM) Info(ctx context.Context) (Info, error) {
	var info Info
	err := t.do(ctx, "read TPM properties", func(o *op) error {
		read, err := o.info()
		info = read
		return err
	})
	if err != nil {
		return Info{}, err
	}
	return info, nil
}

func (o *op) info() (Info, error) {
	props := make(map[tpm2.TPMPT]uint32)
	for _, first := range []tpm2.TPMPT{tpm2.TPMPTFamilyIndicator, tpm2.TPMPTPermanent} {
		if err := o.properties(first, props); err != nil {
			return Info{}, err
		}
	}
	clock, err := tpm2.ReadClock{}.Execute(o)
	if err != nil {
		return Info{}, err
	}
	bank, err := o.sha256Bank()
	if err != nil {
		return Info{}, err
	}
	ci := clock.CurrentTime.ClockInfo
	return Info{
		Manufacturer: letters(props[tpm2.TPMPTManufacturer]),
		Vendor: strings.TrimSpace(letters(props[tpm2.TPMPTVendorString1]) + letters(props[tpm2.TPMPTVendorString2]) +
			letters(props[tpm2.TPMPTVendorString3]) + letters(props[tpm2.TPMPTVendorString4])),
		FirmwareVersion: uint64(props[tpm2.TPMPTFirmwareVersion1])<<32 | uint64(props[tpm2.TPMPTFirmwareVersion2]),
		LockoutCounter:  props[tpm2.TPMPTLockoutCounter],
		MaxAuthFail:     props[tpm2.TPMPTMaxAuthFail],
		ResetCount:      ci.ResetCount,
		RestartCount:    ci.RestartCount,
		ClockMs:         ci.Clock,
		SHA256Bank:      bank,
	}, nil
}

// properties adds one group (fixed or variable) to props.
func (o *op) properties(first tpm2.TPMPT, props map[tpm2.TPMPT]uint32) error {
	rsp, err := tpm2.GetCapability{
		Capability: tpm2.TPMCapTPMProperties, Property: uint32(first), PropertyCount: 100,
	}.Execute(o)
	if err != nil {
		return err
	}
	list, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil {
		return err
	}
	for _, p := range list.TPMProperty {
		props[p.Property] = p.Value
	}
	return nil
}

func (o *op) sha256Bank() (bool, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapPCRs, PropertyCount: 1}.Execute(o)
	if err != nil {
		return false, err
	}
	banks, err := rsp.CapabilityData.Data.AssignedPCR()
	if err != nil {
		return false, err
	}
	for _, bank := range banks.PCRSelections {
		for _, bits := range bank.PCRSelect {
			if bank.Hash == tpm2.TPMAlgSHA256 && bits != 0 {
				return true, nil
			}
		}
	}
	return false, nil
}

// letters reads four ASCII letters out of a property; what is not printable goes.
func letters(v uint32) string {
	var buf [4]byte
	binary.BigEndian.PutUint32(buf[:], v)
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return -1
		}
		return r
	}, string(buf[:]))
}
