// Package attest judges how a machine booted. Bytes in, verdict out: it opens no
// file, asks no clock and talks to no TPM.
//
// Its promise: a Result says "trusted" only if a quote by the given key, over the
// given nonce, claims and PCR selection, matches the replayed logs, and every rule
// over facts from events whose digests were verified held.
package attest

import (
	"crypto/sha256"
	"encoding/json"
	"time"
)

// PCRs is the one selection that is quoted and accepted (SHA-256 bank).
var selection = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}

// Selection returns the PCRs that a quote must cover, in order.
func Selection() []int { return append([]int(nil), selection...) }

// Evidence is what a device answers to a challenge.
type Evidence struct {
	Version   int            `json:"v"`         // 1
	Nonce     []byte         `json:"nonce"`     // of the challenge that this answers; the quote proves it
	Quote     []byte         `json:"quote"`     // TPMS_ATTEST
	Signature []byte         `json:"signature"` // TPMT_SIGNATURE
	PCRs      map[int]Digest `json:"pcrs"`      // SHA-256 bank, as read beside the quote
	Claims    []byte         `json:"claims"`    // the exact bytes of Claims in JSON
	EventLog  Log            `json:"event_log"`
	IMALog    Log            `json:"ima_log"`
}

// Log is a part of an append-only log: Bytes are those from Offset on. A verifier
// that already holds the first Offset bytes puts the whole together.
type Log struct {
	Offset int64  `json:"offset"`
	Bytes  []byte `json:"bytes,omitempty"`
	Digest Digest `json:"digest"` // SHA-256 over the whole log, from 0 on; zero if the machine has none
}

// Claims are what the device says of itself; the quote signs them.
type Claims struct {
	Version  int      `json:"v"`    // 1
	Keys     []string `json:"keys"` // SHA-256 (hex) of the SubjectPublicKeyInfo of each operational key; two during rotation
	Software string   `json:"software"`
	Slot     string   `json:"slot,omitempty"`
	Posture  string   `json:"posture"`    // wire.Health.Posture of the last report
	Audit    string   `json:"audit_head"` // head of the audit log (hex)
	// SoftwareKeys says, each time, that no TPM holds the keys: there is no quote.
	SoftwareKeys bool `json:"software_keys,omitempty"`
}

// QualifyingData is what the quote must carry:
// SHA-256("gw-quote-v1" || fleet || device || nonce || SHA-256(claims)).
// All parts but fleet have a fixed length, so no two inputs collide.
func QualifyingData(fleet, device string, nonce, claims []byte) []byte {
	digest := sha256.Sum256(claims)
	h := sha256.New()
	for _, part := range [][]byte{[]byte("gw-quote-v1"), []byte(fleet), []byte(device), nonce, digest[:]} {
		h.Write(part)
	}
	return h.Sum(nil)
}

// Grade is the outcome of an appraisal.
type Grade string

// From best to worst.
const (
	Trusted   Grade = "trusted"
	Degraded  Grade = "degraded"
	Untrusted Grade = "untrusted"
)

// Expect is what the verifier knows before it looks at evidence.
type Expect struct {
	Fleet    string
	Device   string
	Model    string   // hardware model, for the policy's firmware sets
	Nonce    []byte   // as issued, unexpired, and not used before
	AK       []byte   // TPMT_PUBLIC registered for Device; for VerifySoftware its first key
	Keys     []string // SPKI hashes (hex) of Device's registered operational keys; Claims.Keys must be among them and contain ChannelKey
	Channel  string   // SPKI hash (hex) of the key behind the channel that brought the evidence; "" if the channel has none (a ticket)
	Policy   *Policy
	Firmware []FirmwareSet // approved for this hardware model; empty: none approved yet
	Last     *Memory       // of the last appraisal, nil at first
	Report   *Report       // newest health report that the verifier was sent; nil if none
	Now      time.Time
	Logs     *LogCache // optional: of a known log, evidence need not bring the bytes

	filesUntried bool // evidence is a record without its IMA list
}

// Report is a health report that came another way than the evidence.
type Report struct {
	Posture  string // as Claims name it: computed from what the report says
	Critical string // the first finding in it that is critical, "" if none is
	Settled  bool   // it came before the challenge was made: the quote names it or a later one
}

// Memory is what a verifier keeps of a device between appraisals. JSON-encodable.
type Memory struct {
	Clock   Clock     `json:"clock"`           // of the last accepted quote
	Trusted *Facts    `json:"trusted"`         // of the last trusted boot
	IMA     *IMAState `json:"ima,omitempty"`   // of the IMA list, as far as it was read; nil if there is none
	Files   []IMAFile `json:"files,omitempty"` // of that list, the first few that broke each rule
}

// Clock is TPMS_CLOCK_INFO plus the firmware version of the chip. A TPM adds to
// counters and version a secret constant of the signing key, unless that is in the
// endorsement or platform hierarchy: only differences between quotes of one key
// mean something (TPM 2.0 Library, part 1, section 36.7).
type Clock struct {
	Key             Digest `json:"key"` // SHA-256 of the signing key's TPMT_PUBLIC
	Milliseconds    uint64 `json:"ms"`
	ResetCount      uint32 `json:"reset_count"`
	RestartCount    uint32 `json:"restart_count"`
	Safe            bool   `json:"safe"`
	FirmwareVersion uint64 `json:"firmware_version"`
}

// Result is a verdict. Only Verify and VerifySoftware make one.
type Result struct {
	grade  Grade
	rules  []RuleResult
	facts  Facts
	clock  Clock
	claims Claims
	lines  []string
	ima    *IMAState

	amendments []Amendment
}

// Grade is the worst that any rule concluded.
func (r *Result) Grade() Grade { return r.grade }

// Rules lists every rule with what it found, failed ones first.
func (r *Result) Rules() []RuleResult { return r.rules }

// Facts are what verified events say about the boot.
func (r *Result) Facts() *Facts { return &r.facts }

// Clock is the TPM's clock inside the quote.
func (r *Result) Clock() Clock { return r.clock }

// Claims are the device's, signed by the quote.
func (r *Result) Claims() Claims { return r.claims }

// Amendments are the decisions by which failed rules would hold, where such a
// decision is for a person to make.
func (r *Result) Amendments() []Amendment { return r.amendments }

// Explanation says in words what held, what failed, what changed since the
// last trusted boot and what would accept it; the first line is the summary.
func (r *Result) Explanation() []string { return r.lines }

// Remember returns what to keep for the next appraisal of the same device: clock and
// IMA state of this one, and its facts if it was trusted, else those of last.
func (r *Result) Remember(last *Memory) *Memory {
	m := &Memory{Clock: r.clock, IMA: r.ima}
	if r.ima != nil {
		m.Files = r.facts.IMA.First
	}
	if r.grade == Trusted {
		m.Trusted = &r.facts
	} else if last != nil {
		m.Trusted = last.Trusted
	}
	return m
}

// RuleResult is the outcome of one rule.
type RuleResult struct {
	Rule   string `json:"rule"` // name in all.go
	OK     bool   `json:"ok"`
	Effect Grade  `json:"effect"` // what it costs if not OK
	Text   string `json:"text"`   // a sentence; names PCR and event where it failed
}

// Refusal is the error of Verify for evidence that proves nothing, as opposed to
// evidence that proves a bad boot (which is a Result).
type Refusal struct {
	Rule string // constant word: signature, magic, type, nonce, selection, digest, ...
	Text string
}

func (r *Refusal) Error() string { return "evidence refused (" + r.Rule + "): " + r.Text }

// FirmwareSet is what one firmware version of one hardware model measures:
// the values that an operator approved.
type FirmwareSet struct {
	Name         string        `json:"name"`
	Measurements []Measurement `json:"measurements"` // PCRs 0 and 2, in order
}

// Measurement is one verified event.
type Measurement struct {
	PCR    int    `json:"pcr"`
	Event  int    `json:"event"` // index in the log
	Type   string `json:"type"`  // EV_...
	Digest Digest `json:"digest"`
	Text   string `json:"text,omitempty"` // what the event describes, as far as the digest vouches for it
}

// Digest is a SHA-256 value; in JSON lower-case hex.
type Digest [sha256.Size]byte

var (
	_ json.Marshaler   = Digest{}
	_ json.Unmarshaler = (*Digest)(nil)
	_ error            = (*Refusal)(nil)
)
