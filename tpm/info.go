package tpm

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// Info is what a chip says of itself.
type Info struct {
	Manufacturer    string // four letters of the TCG vendor registry, "INTC"
	Vendor          string // the maker's free text
	FirmwareVersion uint64
	ResetCount      uint32 // power cycles since the chip was cleared
	RestartCount    uint32 // resumes since the last reset
	ClockMs         uint64 // milliseconds of powered time since the chip was cleared

	LockoutCounter  uint32 // failed authorisations that count, now
	MaxAuthFail     uint32 // at this many the chip locks itself
	LockoutInterval uint32 // seconds after which one failure is forgotten; 0: never
	LockoutRecovery uint32 // seconds to wait after a wrong lockout password; 0: until a reboot
	LockedOut       bool

	OwnerAuth       bool // a password is set on the owner hierarchy, and so on
	EndorsementAuth bool
	LockoutAuth     bool
	ClearDisabled   bool // TPM2_Clear by the lockout password is switched off

	Banks      []string // hashes of the banks of PCRs that are on: "sha1", "sha256", "sha384" ...
	SHA256Bank bool     // one of them is SHA-256

	NVIndexes       uint32 // NV indexes that are defined
	NVIndexMax      uint32 // bytes of the largest NV index that the chip allows
	NVCountersAvail uint32 // NV counters that can still be made
	Persistent      []uint32
	PersistentAvail uint32 // persistent objects for which there is still room, estimated by the chip
	ResourceManager bool   // this connection goes through one, by its path
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
	info := fromProperties(props)
	info.ResetCount = clock.CurrentTime.ClockInfo.ResetCount
	info.RestartCount = clock.CurrentTime.ClockInfo.RestartCount
	info.ClockMs = clock.CurrentTime.ClockInfo.Clock
	info.ResourceManager = !o.t.alone
	if info.Banks, err = o.banks(); err != nil {
		return Info{}, err
	}
	info.SHA256Bank = slices.Contains(info.Banks, "sha256")
	persistent, err := o.handles(persistentFirst, persistentLast)
	for _, h := range persistent {
		info.Persistent = append(info.Persistent, uint32(h))
	}
	return info, err
}

func fromProperties(props map[tpm2.TPMPT]uint32) Info {
	permanent := props[tpm2.TPMPTPermanent] // TPMA_PERMANENT (Part 2, 8.6)
	return Info{
		Manufacturer: letters(props[tpm2.TPMPTManufacturer]),
		Vendor: strings.TrimSpace(letters(props[tpm2.TPMPTVendorString1]) + letters(props[tpm2.TPMPTVendorString2]) +
			letters(props[tpm2.TPMPTVendorString3]) + letters(props[tpm2.TPMPTVendorString4])),
		FirmwareVersion: uint64(props[tpm2.TPMPTFirmwareVersion1])<<32 | uint64(props[tpm2.TPMPTFirmwareVersion2]),
		LockoutCounter:  props[tpm2.TPMPTLockoutCounter],
		MaxAuthFail:     props[tpm2.TPMPTMaxAuthFail],
		LockoutInterval: props[tpm2.TPMPTLockoutInterval],
		LockoutRecovery: props[tpm2.TPMPTLockoutRecovery],
		OwnerAuth:       permanent&(1<<0) != 0,
		EndorsementAuth: permanent&(1<<1) != 0,
		LockoutAuth:     permanent&(1<<2) != 0,
		ClearDisabled:   permanent&(1<<8) != 0,
		LockedOut:       permanent&(1<<9) != 0,
		NVIndexes:       props[tpm2.TPMPTHRNVIndex],
		NVIndexMax:      props[tpm2.TPMPTNVIndexMax],
		NVCountersAvail: props[tpm2.TPMPTNVCountersAvail],
		PersistentAvail: props[tpm2.TPMPTHRPersistentAvail],
	}
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

// banks lists the hashes of the banks that have at least one PCR.
func (o *op) banks() ([]string, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapPCRs, PropertyCount: 1}.Execute(o)
	if err != nil {
		return nil, err
	}
	assigned, err := rsp.CapabilityData.Data.AssignedPCR()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, bank := range assigned.PCRSelections {
		if slices.ContainsFunc(bank.PCRSelect, func(bits byte) bool { return bits != 0 }) {
			names = append(names, bankName(bank.Hash))
		}
	}
	return names, nil
}

func bankName(hash tpm2.TPMAlgID) string {
	switch hash {
	case tpm2.TPMAlgSHA1:
		return "sha1"
	case tpm2.TPMAlgSHA256:
		return "sha256"
	case tpm2.TPMAlgSHA384:
		return "sha384"
	case tpm2.TPMAlgSHA512:
		return "sha512"
	}
	return fmt.Sprintf("%#x", uint16(hash))
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
