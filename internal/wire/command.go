package wire

import (
	"encoding/json"
	"time"
)

// SSHSIG namespaces. A signature made for one purpose is no use for another.
const (
	CommandNamespace = "gatewarden-command"
	PolicyNamespace  = "gatewarden-policy"
)

// Envelope carries a command as its operators signed it. Verify first, then
// parse: Command is decoded strictly, and only after the signatures held.
type Envelope struct {
	Command    []byte   `json:"command"`    // the exact signed bytes: a Command in JSON
	Signatures []string `json:"signatures"` // armored SSHSIG, namespace CommandNamespace
}

// Command is what operators sign.
type Command struct {
	Version   int               `json:"v"` // 1
	Fleet     string            `json:"fleet"`
	Devices   []string          `json:"devices"` // explicit device ids
	ID        string            `json:"id"`      // 16 to 64 of [a-z0-9-]; runs once
	Verb      string            `json:"verb"`
	Args      json.RawMessage   `json:"args,omitempty"` // an object; each verb decodes its own, strictly
	NotBefore time.Time         `json:"not_before"`
	Expires   time.Time         `json:"expires"`
	Reason    string            `json:"reason"`
	Challenge map[string][]byte `json:"challenge,omitempty"` // by device: its current challenge, which proves freshness to a device without trustworthy time
}

// Outcome of a command.
const (
	OutcomeDone    = "done"
	OutcomeFailed  = "failed"  // it ran and reported an error
	OutcomeRefused = "refused" // it did not run
	OutcomeUnknown = "unknown" // the power went while it ran; it is not run again
)

// Receipt is a device's answer to an Envelope.
type Receipt struct {
	Payload   []byte `json:"payload"`   // the exact signed bytes: a ReceiptBody in JSON
	Serial    string `json:"serial"`    // of the certificate whose key signed (lower-case hex)
	Signature []byte `json:"signature"` // ECDSA (ASN.1) over SHA-256(ReceiptBytes(Payload))
}

// ReceiptBody says what became of a command.
type ReceiptBody struct {
	Version  int             `json:"v"`
	Device   string          `json:"device"`
	Envelope string          `json:"envelope"`     // SHA-256 (hex) of the command bytes as they arrived
	ID       string          `json:"id,omitempty"` // absent if the command could not be read
	Verb     string          `json:"verb,omitempty"`
	Outcome  string          `json:"outcome"`
	Rule     string          `json:"rule,omitempty"` // which rule refused, a constant word
	Text     string          `json:"text"`           // a sentence
	Result   json.RawMessage `json:"result,omitempty"`
	Time     time.Time       `json:"time"`
}

// ReceiptBytes is what the operational key signs: "gw-receipt-v1" || 0 || payload.
func ReceiptBytes(payload []byte) []byte {
	return append([]byte("gw-receipt-v1\x00"), payload...)
}
