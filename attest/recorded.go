package attest

import (
	"crypto/sha256"
	"fmt"
	"time"
)

// Recorded is evidence with what a verifier knew when it judged it, so that it can
// be judged again: by a policy that is not in force yet, or by somebody else. Its
// nonce was fresh then; that it is the device's is as true as AK and Keys are.
type Recorded struct {
	Version  int           `json:"v"` // 1
	Fleet    string        `json:"fleet"`
	Device   string        `json:"device"`
	Model    string        `json:"model"` // hardware model
	At       time.Time     `json:"at"`    // when it was judged
	AK       []byte        `json:"ak"`    // TPMT_PUBLIC
	Keys     []string      `json:"keys"`  // SPKI hashes (hex) that claims could name
	Firmware []FirmwareSet `json:"firmware"`
	Trusted  *Facts        `json:"trusted"` // of the last trusted boot, null before the first
	Evidence Evidence      `json:"evidence"`
}

const (
	maxRecordedIMA = 8 << 20 // bytes of an IMA list in a record
	// maxRecorded is the size of a record in bytes: logs in base64 and some more.
	maxRecorded = 2*(maxEventLog+maxPolicy) + maxRecordedIMA/3*4
)

// ParseRecorded decodes a record strictly.
func ParseRecorded(data []byte) (*Recorded, error) {
	if len(data) > maxRecorded {
		return nil, fmt.Errorf("parse recorded evidence: %d bytes, at most %d are allowed", len(data), maxRecorded)
	}
	var r Recorded
	if err := decodeStrict(data, &r); err != nil {
		return nil, fmt.Errorf("parse recorded evidence: %w", err)
	}
	if r.Version != 1 {
		return nil, fmt.Errorf("parse recorded evidence: version %d, not 1", r.Version)
	}
	if n := len(r.Evidence.IMALog.Bytes); n > maxRecordedIMA {
		return nil, fmt.Errorf("parse recorded evidence: an IMA list of %d bytes, at most %d are allowed", n, maxRecordedIMA)
	}
	return &r, nil
}

// AddIMA puts the device's IMA list into the record, in any form that ReadIMA takes. It
// may be read later than the quote was made, in the same boot, and needs no trust: it is
// held against the quoted PCR 10.
func (r *Recorded) AddIMA(data []byte) error {
	list, err := ReadIMA(data)
	if err != nil {
		return err
	}
	if len(list) > maxRecordedIMA {
		return fmt.Errorf("add IMA list: %d bytes, at most %d are allowed", len(list), maxRecordedIMA)
	}
	r.Evidence.IMALog = Log{Bytes: list, Digest: sha256.Sum256(list)}
	return nil
}

// Judge is Verify by another policy, at a time. A record without IMA list is judged
// without: most verifiers do not keep them.
func (r *Recorded) Judge(p *Policy, now time.Time) (*Result, error) {
	e := Expect{
		Fleet: r.Fleet, Device: r.Device, Model: r.Model, Nonce: r.Evidence.Nonce, AK: r.AK, Keys: r.Keys,
		Policy: p, Firmware: r.Firmware, Now: now, filesUntried: r.Evidence.IMALog.Digest.IsZero(),
	}
	if r.Trusted != nil {
		e.Last = &Memory{Trusted: r.Trusted} // its clock is no key's: the quote was judged by it once
	}
	return Verify(r.Evidence, e)
}
