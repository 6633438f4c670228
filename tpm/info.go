package tpm

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/tpm/core"
)

// Info is what a chip says of itself.
type Info struct {
	Manufacturer    string `json:"manufacturer"` // four letters of the TCG vendor registry, "INTC"
	Vendor          string `json:"vendor"`       // the maker's free text
	FirmwareVersion uint64 `json:"firmware_version"`
	ResetCount      uint32 `json:"reset_count"`   // power cycles since the chip was cleared
	RestartCount    uint32 `json:"restart_count"` // resumes since the last reset
	ClockMs         uint64 `json:"clock_ms"`      // milliseconds of powered time since the chip was cleared

	LockoutCounter  uint32 `json:"lockout_counter"`  // failed authorisations that count, now
	MaxAuthFail     uint32 `json:"max_auth_fail"`    // at this many the chip locks itself
	LockoutInterval uint32 `json:"lockout_interval"` // seconds after which one failure is forgotten; 0: never
	LockoutRecovery uint32 `json:"lockout_recovery"` // seconds to wait after a wrong lockout password; 0: until a reboot
	LockedOut       bool   `json:"locked_out"`

	OwnerAuth       bool `json:"owner_auth"` // a password is set on the owner hierarchy, and so on
	EndorsementAuth bool `json:"endorsement_auth"`
	LockoutAuth     bool `json:"lockout_auth"`
	ClearDisabled   bool `json:"clear_disabled"` // TPM2_Clear by the lockout password is switched off

	Banks      []string `json:"banks"`       // hashes of the banks of PCRs that are on: "sha1", "sha256", "sha384" ...
	SHA256Bank bool     `json:"sha256_bank"` // one of them is SHA-256

	NVIndexes       uint32   `json:"nv_indexes"`        // NV indexes that are defined
	NVIndexMax      uint32   `json:"nv_index_max"`      // bytes of the largest NV index that the chip allows
	NVCountersAvail uint32   `json:"nv_counters_avail"` // NV counters that can still be made
	Persistent      []uint32 `json:"persistent"`
	PersistentAvail uint32   `json:"persistent_avail"` // persistent objects for which there is still room, estimated by the chip
	ResourceManager bool     `json:"resource_manager"` // this connection goes through one, by its path
}

// Info reads the properties of the chip, with a few commands.
func (t *TPM) Info(ctx context.Context) (Info, error) {
	var info Info
	err := t.Do(ctx, "read TPM properties", func(c *Chip) (err error) {
		info, err = readInfo(c)
		return err
	})
	if err != nil {
		return Info{}, err
	}
	info.ResourceManager = t.Shared()
	return info, nil
}

func readInfo(c *Chip) (Info, error) {
	props := make(map[tpm2.TPMPT]uint32)
	for _, first := range []tpm2.TPMPT{tpm2.TPMPTFamilyIndicator, tpm2.TPMPTPermanent} {
		if err := properties(c, first, props); err != nil {
			return Info{}, err
		}
	}
	clock, err := c.Send([]byte("\x80\x01\x00\x00\x00\x0a\x00\x00\x01\x81")) // TPM2_ReadClock; in the library's way it adds 12 KB to the program
	if err != nil || len(clock) != headerSize+25 {                           // TPMS_TIME_INFO (Part 2, 10.11.6)
		return Info{}, cmp.Or(err, core.Classify(ErrDamaged, "the chip does not tell its clock", nil))
	}
	info := fromProperties(props)
	info.ResetCount = binary.BigEndian.Uint32(clock[headerSize+16:])
	info.RestartCount = binary.BigEndian.Uint32(clock[headerSize+20:])
	info.ClockMs = binary.BigEndian.Uint64(clock[headerSize+8:])
	if info.Banks, err = banks(c); err != nil {
		return Info{}, err
	}
	info.SHA256Bank = slices.Contains(info.Banks, "sha256")
	persistent, err := c.Handles(0x81000000, 0x81ffffff)
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
func properties(c *Chip, first tpm2.TPMPT, props map[tpm2.TPMPT]uint32) error {
	rsp, err := tpm2.GetCapability{
		Capability: tpm2.TPMCapTPMProperties, Property: uint32(first), PropertyCount: 100,
	}.Execute(c)
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
func banks(c *Chip) ([]string, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapPCRs, PropertyCount: 1}.Execute(c)
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
