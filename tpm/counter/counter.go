// Package counter is the TPM's memory of the security epoch: an NV counter that only
// goes up, and that only the holder of one key can raise.
//
// Its promise: a value that Read returns comes from the very index that was recorded
// when the counter was made, in the chip that it was made in, whoever holds the bus
// between. An index that was deleted, or made again by somebody
// else, is an *Alarm and never a lower number.
//
// The right to increment is a policy, PolicySigned by a software key that only root
// can read. The policy is part of the index's Name, and so is the bit that says
// "written". An index that another makes with the same public area can therefore not
// be written by him, and has another Name as long as it is not. Even then nothing
// goes back: a new counter starts above all that the chip ever counted (TPM 2.0
// Part 3, 31.8).
//
// The package sends commands and keeps nothing: it is small enough for the root
// helper, which reviewers read whole.
package counter

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm/core"
)

const (
	// Index is where the counter is, unless configured otherwise: in the range that
	// the TCG leaves to owners (Registry of Reserved TPM 2.0 Handles, 2.2.2).
	Index = 0x01806777
	// MaxRaise bounds the increments of one Raise, count.
	MaxRaise = 64

	recordFormat = 1
	counterSize  = 8       // bytes (Part 2, 13.2)
	maxPublic    = 1 << 10 // TPMS_NV_PUBLIC in a record, bytes
)

// Record is what root keeps about the counter, in a file that only root writes.
type Record struct {
	Format  int    `json:"v"`       // 1
	Index   uint32 `json:"index"`   // NV index
	Public  []byte `json:"public"`  // TPMS_NV_PUBLIC of the written index (Part 2, 13.5): attributes, policy, size
	Initial uint64 `json:"initial"` // value when it was made; counters do not start at 0
	// Storage is the Name of the chip's storage key when the counter was made: who holds
	// the bus can't answer in its place. A record without it is read without a session.
	Storage []byte `json:"storage,omitempty"`
}

// Alarm says that the counter is not the one that was recorded: missing (the owner
// hierarchy deleted it), foreign (another index is in its place), unwritten (it was
// deleted and made again), behind (it shows less than when it was made) or replaced
// (the chip's storage key is another). Whoever gets one must refuse downgrades.
type Alarm struct {
	Rule string
	Text string
}

func (a *Alarm) Error() string { return "counter alarm: " + a.Text }

// Explained marks an error that needs no class of the tpm package.
func (a *Alarm) Explained() {}

func alarm(rule, format string, args ...any) error {
	return &Alarm{Rule: rule, Text: fmt.Sprintf(format, args...)}
}

// public is the public area of the counter that key may increment. Everybody may
// read it; noDA, so that nothing here counts towards a lockout.
func public(index uint32, key crypto.PublicKey) (tpm2.TPMSNVPublic, error) {
	name, err := tpmpolicy.KeyName(key)
	if err != nil {
		return tpm2.TPMSNVPublic{}, err
	}
	policy := tpmpolicy.Digest{}.Signed(name, nil)
	return tpm2.TPMSNVPublic{
		NVIndex:    tpm2.TPMHandle(index),
		NameAlg:    tpm2.TPMAlgSHA256,
		Attributes: tpm2.TPMANV{PolicyWrite: true, AuthRead: true, NoDA: true, NT: tpm2.TPMNTCounter},
		AuthPolicy: tpm2.TPM2BDigest{Buffer: policy[:]},
		DataSize:   counterSize,
	}, nil
}

// Name is the Name of the written index: what a sealing policy names.
func (r Record) Name() []byte { return tpmpolicy.Name(r.Public) }

// Delta is how far value is from the counter's beginning.
func (r Record) Delta(value uint64) (uint64, error) {
	if value < r.Initial {
		return 0, alarm("behind", "it shows %d, and %d when it was made", value, r.Initial)
	}
	return value - r.Initial, nil
}

// Check refuses a record that no Define made.
func (r Record) Check() error {
	if r.Format != recordFormat {
		return fmt.Errorf("read counter record: v is %d, this software reads %d", r.Format, recordFormat)
	}
	if len(r.Public) > maxPublic {
		return fmt.Errorf("read counter record: public area of %d bytes, at most %d are allowed", len(r.Public), maxPublic)
	}
	area, err := tpm2.Unmarshal[tpm2.TPMSNVPublic](r.Public)
	if err != nil {
		return fmt.Errorf("read counter record: %w", err)
	}
	if uint32(area.NVIndex) != r.Index || area.Attributes.NT != tpm2.TPMNTCounter || !area.Attributes.Written ||
		area.DataSize != counterSize || area.NameAlg != tpm2.TPMAlgSHA256 || !bytes.Equal(tpm2.Marshal(*area), r.Public) {
		return errors.New("read counter record: it is not about a written counter")
	}
	return nil
}

// Pin adds to a record of an older version what makes Read safe against the bus.
func Pin(chip *core.Chip, r Record) (Record, error) {
	if r.Storage != nil {
		return r, nil
	}
	key, err := chip.Storage()
	r.Storage = bytes.Clone(key.Handle.Name.Buffer)
	return r, err
}

// Read returns the counter's value. Errors: *Alarm.
func Read(chip *core.Chip, r Record) (uint64, error) {
	if err := r.Check(); err != nil {
		return 0, &Alarm{Rule: "record", Text: err.Error()}
	}
	area, err := readPublic(chip, r.Index)
	if err != nil {
		return 0, err
	}
	if area == nil {
		return 0, alarm("missing", "NV index %#x has gone: it was deleted with the owner's authority", r.Index)
	}
	written := *area
	written.Attributes.Written = true
	switch {
	case !bytes.Equal(tpm2.Marshal(written), r.Public):
		return 0, alarm("foreign", "another index is at %#x than the one that was made", r.Index)
	case !area.Attributes.Written:
		return 0, alarm("unwritten", "NV index %#x was deleted and made again", r.Index)
	}
	data, err := chip.ReadNV(tpm2.NamedHandle{Handle: area.NVIndex, Name: tpm2.TPM2BName{Buffer: r.Name()}}, counterSize, r.Storage)
	switch {
	case errors.Is(err, tpm2.TPMRCAuthFail) || errors.Is(err, tpm2.TPMRCBadAuth):
		return 0, alarm("foreign", "the index at %#x is not the one that it was said to be", r.Index)
	case errors.Is(err, core.ErrReplaced):
		return 0, alarm("replaced", "the TPM has another storage key than when the counter was made")
	case err != nil:
		return 0, err
	}
	value := binary.BigEndian.Uint64(data)
	if _, err := r.Delta(value); err != nil {
		return 0, err
	}
	return value, nil
}

// readPublic is nil if there is no such index.
func readPublic(chip *core.Chip, index uint32) (*tpm2.TPMSNVPublic, error) {
	rsp, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(index)}.Execute(chip)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return rsp.NVPublic.Contents()
}

// checkKey refuses a key that does not fit a record.
func checkKey(key *ecdsa.PrivateKey, r Record) error {
	if key == nil {
		return errors.New("raise counter: no key")
	}
	area, err := public(r.Index, key.Public())
	if err != nil {
		return err
	}
	area.Attributes.Written = true
	if !bytes.Equal(tpm2.Marshal(area), r.Public) {
		return &Alarm{Rule: "key", Text: "the key that was kept for the counter is not its key"}
	}
	return nil
}

var _ error = (*Alarm)(nil)
