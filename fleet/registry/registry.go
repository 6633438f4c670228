// Package registry is what a fleet knows: devices, certificates, verdicts,
// messages, commands. All of it lies in one SQL database.
//
// Its promise: what a method reported as done survives a power cut, and any
// number of servers may work on the same database. A method that consumes
// something (a ticket, a nonce, a sequence number) succeeds once, however often
// and wherever it is called.
//
// Times are kept in milliseconds; a zero time.Time stays zero.
package registry

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/gatewarden/gatewarden/internal/wire"
)

// Callers branch on these.
var (
	ErrNotFound = errors.New("not found")                      // unknown, consumed, expired, or another device's: which one stays untold
	ErrConflict = errors.New("belongs to another TPM")         // a device id is bound to its EK, or to its first key, for ever
	ErrState    = errors.New("not in the device's state")      // AddCertificate: the device is Pending or out; Admit: it isn't Pending (or Revoked, where that is wanted); SetState: only a person may
	ErrTooNew   = errors.New("database is of a newer version") // OpenSQLite: made by a later release than this one
)

// States of a device.
const (
	Pending     = "pending" // enrolled, not approved
	Active      = "active"
	Quarantined = "quarantined" // not trusted: holds a quarantine certificate at most
	Revoked     = "revoked"     // shut out: gets nothing more, unless a person approves it again

	Decommissioned = "decommissioned" // left in good order: gets nothing more, unless it is transferred
)

// Out says that a device in this state is no part of the fleet any more.
func Out(state string) bool { return state == Revoked || state == Decommissioned }

// Fleet is who acts where it is the server on its own.
const Fleet = "fleet"

// Severities of an event.
const (
	Info    = "info"
	Warning = "warning"
	Alarm   = "alarm"
)

// Device is one gateway.
type Device struct {
	ID            string // wire.DeviceID
	Model         string // hardware model: the device's claim until it was approved
	Hostname      string // a claim
	Software      string // agent version: a claim
	State         string // Pending, Active, Quarantined, Revoked, Decommissioned
	SoftwareKeys  bool   // it has no TPM: EKName is softkey.Name of its first key, AKPublic that key, and there is no EK; never changes
	EKName        []byte // TPM name of the EK; never changes
	EKPublic      []byte // TPMT_PUBLIC
	EKCertificate []byte // DER, nil if the chip has none
	AKPublic      []byte // TPMT_PUBLIC
	EKVerified    bool   // EKCertificate chains to a maker
	Machine       string // the machine whose maker vouches for this TPM (verifier.VerifyIAK); "" if none does
	Grade         string // of the last verdict: trusted, degraded, untrusted; "" before the first
	GradeAt       time.Time
	Created       time.Time
	ApprovedAt    time.Time
	ApprovedBy    string
	LastSeen      time.Time
	Running       string // release ("product version") that the last verdict proved; "" if none
	UpdateTo      string // version of the update that it spoke of last: a claim
	UpdateOutcome string // of that one; "" while it is under way
}

// Genuine says that a known maker, of the TPM or of the machine, vouches for d's TPM.
func (d Device) Genuine() bool { return d.EKVerified || d.Machine != "" }

// DeviceRow is a Device as a list shows it: without keys, with the certificate
// that was issued last.
type DeviceRow struct {
	Device
	CertSerial    string // "" if none was issued
	CertProfile   string
	CertNotBefore time.Time
	CertNotAfter  time.Time
}

// Filter selects devices; empty fields select all.
type Filter struct {
	State  string
	Grade  string
	Model  string
	Keys   string // KeysTPM, KeysSoftware
	Search string // beginning of the id (with or without "gw-") or of the host name; case is ignored; costs as much as there are matches
	After  string // id of the last device of the page before
	Limit  int    // 1 to MaxPage; 0 means 50
}

// Where a device keeps its keys, for Filter.
const (
	KeysTPM      = "tpm"
	KeysSoftware = "software"
)

// MaxPage is the largest page of any list.
const MaxPage = 1000

// Count is the number of devices with one combination of state and grade.
type Count struct {
	State, Grade string
	N            int
}

// Ticket lets one enrolment proceed: whoever knows its secret holds the EK and
// the AK, and may have one certificate for one CSR.
type Ticket struct {
	ID         string
	Device     string
	SecretHash [32]byte // SHA-256 of the credential's secret
	CSRHash    [32]byte // SHA-256 of the CSR in DER
	Key        string   // SHA-256 (hex) of the operational key's SubjectPublicKeyInfo
	AKPublic   []byte   // TPMT_PUBLIC
	Machine    string   // the machine whose maker vouches for this AK, "" if none does
	Token      string   // id of the one-time token that came with the request, "" if none
	Expires    time.Time
}

// Token admits the one device that uses it first, without a person's further word.
type Token struct {
	ID             string
	SecretHash     [32]byte // SHA-256 of its secret
	Note           string
	By             string // who made it
	Created        time.Time
	Expires        time.Time
	AcceptEK       bool // also a device whose TPM maker is not known
	AcceptFirmware bool // the firmware values that the device shows become a reference
	AcceptSoftware bool // also a device without a TPM
	RevokedAt      time.Time
	Device         string // that it admitted, "" while it is unused
	UsedAt         time.Time
}

// Kinds of an Allowed entry.
const (
	AllowEK     = "ek"     // Value: SHA-256 (hex) of the EK's SubjectPublicKeyInfo
	AllowSerial = "serial" // Value: serial (hex) of an EK certificate that a known maker signed
	AllowIAK    = "iak"    // Value: Device.Machine
)

// Allowed is an EK whose device a person admitted before it came. Like a token
// it admits once.
type Allowed struct {
	Kind, Value    string
	Note           string
	By             string // who added it
	Created        time.Time
	AcceptFirmware bool
	Device         string // that it admitted, "" before
	UsedAt         time.Time
}

// Admission is the approval of a pending device with all that it rests on.
type Admission struct {
	Device   string
	By       string // the person whose decision it is
	Reason   string
	At       time.Time
	Token    string   // id of the token that it uses up, or ""
	Allowed  *Allowed // the entry that it uses up, or nil
	Revoked  bool     // it takes back a revocation: the device is Revoked, not Pending
	Firmware *FirmwareRecord
}

// FirmwareRecord is a set of reference values for one model.
type FirmwareRecord struct {
	Model, Name string
	Hash        string          // attest.FirmwareSet.Hash
	Set         json.RawMessage // attest.FirmwareSet
}

// Certificate is one entry of the CA's journal.
type Certificate struct {
	Serial    string // lower-case hex
	Device    string
	Identity  string // of the subject: the device, or wire.QuarantineID of it
	Profile   string // full, short, quarantine, service
	SPKI      string // SHA-256 (hex) of the SubjectPublicKeyInfo
	NotBefore time.Time
	NotAfter  time.Time
	IssuedAt  time.Time
	RevokedAt time.Time // zero while it is good
	Reason    string    // of the revocation
	DER       []byte
}

// Verdict is one appraisal.
type Verdict struct {
	Device      string
	At          time.Time
	Grade       string
	Gate        string   // wire.Gate
	Release     string   // "product version" that the boot matches whole, "" if none: Device.Running; not returned by Verdicts
	Explanation []string // the first line is the summary
	Rules       json.RawMessage
	Facts       json.RawMessage
	Claims      json.RawMessage // attest.Claims: what the quote proved of the device's own words
	Firmware    *Measured       // nil if it could not be verified: the device counts as before; not returned by Verdicts
	Audit       string          // head (hex) of the audit log in them; proves events; not returned by Verdicts
	Memory      json.RawMessage // AddVerdict stores it as by SetMemory unless nil; not returned by Verdicts
}

// Message is one that waited in a device's outbox (wire.Up).
type Message struct {
	Device   string
	Stream   string
	Seq      uint64
	Prev     uint64
	Kind     string    // wire.Kind
	Time     time.Time // the device's clock
	Received time.Time
	Body     json.RawMessage

	// Effects are stored in the transaction that accepts the message, and only
	// if it does; they are Device's, whatever their own Device says. Not returned
	// by Messages.
	Timeline []Event
	Receipt  *ReceiptRecord
	Update   *wire.Update
}

// Acceptance is the answer to one Message.
type Acceptance struct {
	Accepted bool   // it was new and is durable now
	UpTo     uint64 // the highest Seq taken in from its stream: what an Ack says
	Err      error  // why this message can never be accepted, whatever comes before it: ErrNotFound for an unknown device
}

// Event is a line of a device's timeline.
type Event struct {
	ID       int64  // given by the registry, rising
	Device   string // "" for the fleet's own
	At       time.Time
	Kind     string // "enrolled", "verdict.untrusted", ...
	Severity string // Info, Warning, Alarm
	Text     string // a sentence
	Prev     string // head (hex) of the device's audit log before the entry that this is; "" if it is none
	Head     string // and after it
	Proof    string // ProofNone, ProofClaimed; the registry makes it ProofQuoted or ProofStray
}

// CommandRecord is one envelope on its way to one device.
type CommandRecord struct {
	Hash     string // SHA-256 (hex) of the envelope's command bytes; AddCommand fills it in from Envelope if empty
	ID       string // the command's id; an altered envelope may carry a known one
	Device   string
	Envelope []byte // wire.Envelope in JSON, as handed in
	Verb     string
	Reason   string
	Signers  []string // people, as far as the server could tell
	Created  time.Time
	Expires  time.Time // PendingCommands leaves it out from then on; zero: never

	Pending  bool            // no receipt since it was added last
	Receipts []ReceiptRecord // oldest first
}

// ReceiptRecord is a device's signed answer to an envelope, already verified.
type ReceiptRecord struct {
	Device   string
	Envelope string // CommandRecord.Hash
	Outcome  string // wire.Outcome*
	Rule     string // which rule refused
	Text     string
	Received time.Time
	Receipt  json.RawMessage // wire.Receipt
}

// UpdateRecord is what a device said last about one of its updates.
type UpdateRecord struct {
	wire.Update
	Device string
	First  time.Time // when the fleet first heard of it
	Last   time.Time // when it heard this
	Proof  string    // of its outcome: ProofNone while it is under way, ProofClaimed, ProofQuoted
}

// MaxUpdates is how many updates of one device are kept; the newest stay.
const MaxUpdates = 64

// ReleaseCount is the number of devices by what they did with one release. A
// device counts as running what its last verdict proved, and once in all the
// others together: for the update to the release of which it spoke last.
type ReleaseCount struct {
	Running                                          int // devices that are out are left out
	UnderWay, Installed, Failed, Refused, RolledBack int
}

// AuditEntry is one act of an operator, or of the server on its own.
type AuditEntry struct {
	ID     int64
	At     time.Time
	By     string // a person's name, or "fleet"
	Action string // "approve", "revoke", ...
	Device string
	Text   string
}
