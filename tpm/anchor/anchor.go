// Package anchor keeps the end of a growing list in the TPM, so that who cuts the list
// short, or puts an old copy of it back, is found out.
//
// Its promise: what is anchored was at the end of the list when it was anchored. The
// chip holds one digest, an NV index of type EXTEND: value := SHA-256(value || head).
// There is no command that sets it back, and the file beside it is of use only while
// it fits. Who has the owner hierarchy's password (or finds none set) can delete the
// index; that is an *Alarm, and so is an index that was made again. Who holds the bus
// can hide the index, and show no other value than the chip's.
package anchor

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/tpm/core"
)

const (
	// Index is where the anchor is: in the range that the TCG leaves to owners, beside
	// the counter of the security epoch.
	Index = 0x01806778

	format = 1
	size   = sha256.Size // bytes of the index
)

// Mark is one end of the list, and what the chip holds once it is anchored.
type Mark struct {
	Value []byte `json:"value"` // of the index
	Index uint64 `json:"index"` // number of the last entry
	Head  []byte `json:"head"`  // digest of the list up to there
}

// Record is kept on disk: before the chip is extended with Next, and after.
type Record struct {
	Format int   `json:"v"` // 1
	Last   Mark  `json:"last"`
	Next   *Mark `json:"next,omitempty"` // the chip may hold this already: the power may have gone
	// Storage is the Name of the chip's storage key when the record began: who holds the
	// bus can't answer in its place. Check adds it to a record of an older version.
	Storage []byte `json:"storage,omitempty"`
}

// Alarm says that the chip's value is not the one that the record says. Rules: missing
// (the index was deleted), unwritten (and made again), foreign (something else is in its
// place), moved (the record is old, or somebody else extended the index), replaced (the
// chip's storage key is another), record (it is no record).
type Alarm struct {
	Rule string
	Text string
}

func (a *Alarm) Error() string { return "anchor alarm: " + a.Text }

// Explained marks an error that needs no class of the tpm package.
func (a *Alarm) Explained() {}

// Begin makes the index if it is not there, and starts a record with what it holds and
// nothing anchored. owner is the password of the owner hierarchy, nil if it has none.
func Begin(chip *core.Chip, owner []byte) (Record, error) {
	there, err := readPublic(chip)
	if err != nil {
		return Record{}, err
	}
	if there == nil {
		if err := define(chip, owner); err != nil {
			return Record{}, err
		}
	}
	// An index is never seen as it was made: whoever says so later lies, or made it again.
	if there == nil || !there.Attributes.Written {
		if err := extend(chip, make([]byte, size)); err != nil {
			return Record{}, err
		}
	}
	key, err := chip.Storage()
	if err != nil {
		return Record{}, err
	}
	r := Record{Format: format, Storage: bytes.Clone(key.Handle.Name.Buffer)}
	r.Last.Value, err = read(chip, r.Storage)
	return r, err
}

// Fresh tells that nothing was ever anchored in the index.
func (r Record) Fresh() bool {
	first := sha256.Sum256(make([]byte, 2*size))
	return bytes.Equal(r.Last.Value, first[:])
}

// read returns what the chip holds.
func read(chip *core.Chip, storage []byte) ([]byte, error) {
	index, written, err := open(chip)
	if err != nil {
		return nil, err
	}
	if !written {
		return nil, &Alarm{"unwritten", fmt.Sprintf("NV index %#x was deleted and made again", Index)}
	}
	value, err := chip.ReadNV(index, size, storage)
	switch {
	case errors.Is(err, tpm2.TPMRCAuthFail) || errors.Is(err, tpm2.TPMRCBadAuth):
		return nil, &Alarm{"foreign", fmt.Sprintf("NV index %#x is not what it was said to be", Index)}
	case errors.Is(err, core.ErrReplaced):
		return nil, &Alarm{"replaced", "the TPM has another storage key than when the record began"}
	}
	return value, err
}

// Check compares a record with the chip, and returns it with Next settled: the last
// mark that is anchored. Errors: *Alarm.
func Check(chip *core.Chip, r Record) (Record, error) {
	if r.Format != format || len(r.Last.Value) != size || r.Next != nil && len(r.Next.Value) != size {
		return Record{}, &Alarm{"record", "the record is damaged, or of another version"}
	}
	if r.Storage == nil {
		key, err := chip.Storage()
		if err != nil {
			return Record{}, err
		}
		r.Storage = bytes.Clone(key.Handle.Name.Buffer)
	}
	value, err := read(chip, r.Storage)
	if err != nil {
		return Record{}, err
	}
	switch {
	case bytes.Equal(value, r.Last.Value):
		return Record{Format: format, Last: r.Last, Storage: r.Storage}, nil
	case r.Next != nil && bytes.Equal(value, r.Next.Value):
		return Record{Format: format, Last: *r.Next, Storage: r.Storage}, nil
	}
	return Record{}, &Alarm{"moved", "the TPM's anchor is not the recorded one: an old copy was put back, or somebody else extended it"}
}

// With is the record to store before Extend anchors a head with it.
func (r Record) With(index uint64, head []byte) Record {
	value := sha256.Sum256(append(bytes.Clone(r.Last.Value), head...))
	return Record{Format: format, Last: r.Last, Storage: r.Storage, Next: &Mark{Value: value[:], Index: index, Head: head}}
}

// Extend anchors the record's next head. If it fails, Check tells whether it did so.
func Extend(chip *core.Chip, r Record) (Record, error) {
	if r.Next == nil {
		return Record{}, errors.New("extend anchor: the record has nothing to anchor")
	}
	if _, _, err := open(chip); err != nil {
		return Record{}, err
	}
	if err := extend(chip, r.Next.Head); err != nil {
		return Record{}, err
	}
	return Check(chip, r)
}

// extend is TPM2_NV_Extend (Part 3, 31.9), which the library lacks, with the index's
// own empty password.
func extend(chip *core.Chip, data []byte) error {
	command := []byte{0x80, 0x02, 0, 0, 0, 0, 0, 0, 0x01, 0x36}
	for _, word := range []uint32{Index, Index, 9, uint32(tpm2.TPMRSPW)} {
		command = binary.BigEndian.AppendUint32(command, word)
	}
	command = append(command, 0, 0, 0, 0, 0) // no nonce, no attributes, no password
	command = append(binary.BigEndian.AppendUint16(command, uint16(len(data))), data...)
	binary.BigEndian.PutUint32(command[2:], uint32(len(command)))
	response, err := chip.Send(command)
	if err != nil {
		return err
	}
	if len(response) < 10 {
		return fmt.Errorf("extend anchor: response of %d bytes", len(response))
	}
	if rc := tpm2.TPMRC(binary.BigEndian.Uint32(response[6:])); rc != 0 {
		return rc
	}
	return nil
}

// public is the area of the index. Everybody may read and extend it: he gains nothing
// by it, and it is seen.
func public() tpm2.TPMSNVPublic {
	return tpm2.TPMSNVPublic{
		NVIndex:    Index,
		NameAlg:    tpm2.TPMAlgSHA256,
		Attributes: tpm2.TPMANV{AuthWrite: true, AuthRead: true, NoDA: true, NT: tpm2.TPMNTExtend},
		DataSize:   size,
	}
}

func define(chip *core.Chip, owner []byte) error {
	auth := tpm2.PasswordAuth(nil)
	if len(owner) != 0 {
		auth = tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.Auth(owner)) // the chip ends it with the command, or with its failure
	}
	_, err := tpm2.NVDefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: auth},
		PublicInfo: tpm2.New2B(public()),
	}.Execute(chip)
	return err
}

// open finds the index and refuses another in its place.
func open(chip *core.Chip) (index tpm2.NamedHandle, written bool, err error) {
	area, err := readPublic(chip)
	if err != nil {
		return tpm2.NamedHandle{}, false, err
	}
	if area == nil {
		return tpm2.NamedHandle{}, false, &Alarm{"missing", fmt.Sprintf("NV index %#x has gone: it was deleted with the owner's authority", Index)}
	}
	want := public()
	want.Attributes.Written = area.Attributes.Written
	if !bytes.Equal(tpm2.Marshal(*area), tpm2.Marshal(want)) {
		return tpm2.NamedHandle{}, false, &Alarm{"foreign", fmt.Sprintf("NV index %#x is used by something else", Index)}
	}
	name, err := tpm2.NVName(area)
	if err != nil {
		return tpm2.NamedHandle{}, false, err
	}
	return tpm2.NamedHandle{Handle: Index, Name: *name}, area.Attributes.Written, nil
}

// readPublic is nil if there is no such index.
func readPublic(chip *core.Chip) (*tpm2.TPMSNVPublic, error) {
	rsp, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(Index)}.Execute(chip)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return rsp.NVPublic.Contents()
}

var _ error = (*Alarm)(nil)
