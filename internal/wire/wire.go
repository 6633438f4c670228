// Package wire holds what gateway and fleet say to each other: topics, message
// bodies, the byte strings that get signed, and the limits on all of them.
//
// It decides nothing. Whoever receives a message checks the signature that the type
// names, and decodes with strictjson: Inform for what informs, Unmarshal for the rest.
package wire

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/internal/strictjson"
)

// Kind is the last level of a topic: what a message is.
type Kind string

// What a device publishes under up/.
const (
	KindHello    Kind = "hello"    // Hello: connected; asks for a challenge
	KindEvidence Kind = "evidence" // attest.Evidence: the answer to a challenge
	KindHealth   Kind = "health"   // Up{Health}
	KindEvent    Kind = "event"    // Up{Event}: what an operator should learn of
	KindReceipt  Kind = "receipt"  // Up{Receipt}: what became of a command
	KindLinkTest Kind = "linktest" // Up{LinkTest}: numbered test messages
)

// What the fleet publishes under down/.
const (
	KindChallenge Kind = "challenge" // Challenge: prove yourself now
	KindVerdict   Kind = "verdict"   // Signed{Verdict}
	KindAck       Kind = "ack"       // Signed{Ack}
	KindCommand   Kind = "command"   // Envelope
)

const topicPrefix = "gw/v1/"

// UpTopic is where the device with this certificate identity publishes kind.
func UpTopic(identity string, kind Kind) string {
	return topicPrefix + identity + "/up/" + string(kind)
}

// DownTopic is where the fleet publishes kind for identity; "+" stands for all kinds.
func DownTopic(identity string, kind Kind) string {
	return topicPrefix + identity + "/down/" + string(kind)
}

// ParseUp splits an up topic into identity and kind.
func ParseUp(topic string) (identity string, kind Kind, ok bool) { return parse(topic, "up") }

// ParseDown splits a down topic into identity and kind.
func ParseDown(topic string) (identity string, kind Kind, ok bool) { return parse(topic, "down") }

func parse(topic, direction string) (string, Kind, bool) {
	rest, ok := strings.CutPrefix(topic, topicPrefix)
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 3 || parts[0] == "" || parts[1] != direction || parts[2] == "" {
		return "", "", false
	}
	return parts[0], Kind(parts[2]), true
}

// FleetIdentity is the certificate identity of the fleet server's own MQTT
// client. It can't be a device's: those begin with gw- or q-.
const FleetIdentity = "fleet"

// DeviceID derives a device's name from its fleet and the Name of its EK, so
// that the same chip in another fleet can't be recognised:
// "gw-" + base32(SHA-256("gw-id-v1" || fleet || EK Name))[:16], lower case.
func DeviceID(fleet string, ekName []byte) string {
	h := sha256.New()
	h.Write([]byte("gw-id-v1"))
	h.Write([]byte(fleet))
	h.Write(ekName)
	return "gw-" + strings.ToLower(base32.StdEncoding.EncodeToString(h.Sum(nil)))[:16]
}

// QuarantineID is the certificate identity of a device that is not trusted.
func QuarantineID(device string) string { return "q-" + device }

// DeviceOf returns the device behind a certificate identity and whether that
// identity is a quarantine one. ok is false if it is no device's.
func DeviceOf(identity string) (device string, quarantined, ok bool) {
	device, quarantined = strings.CutPrefix(identity, "q-")
	suffix, ok := strings.CutPrefix(device, "gw-")
	ok = ok && len(suffix) == 16 && strings.Trim(suffix, "abcdefghijklmnopqrstuvwxyz234567") == ""
	return device, quarantined, ok
}

// ShortSerial is what people tell certificates apart by: serials begin with the time.
func ShortSerial(serial string) string { return serial[max(0, len(serial)-8):] }

// Up is the outer form of every message that waited in a device's outbox.
// The fleet takes it in exactly once: iff Prev <= last < Seq, where last is the
// highest Seq it took in from this Stream before (0 at first).
type Up struct {
	Version int             `json:"v"`      // 1
	Stream  string          `json:"stream"` // one per outbox and class; new when an outbox was rebuilt
	Seq     uint64          `json:"seq"`    // 1, 2, ...
	Prev    uint64          `json:"prev"`   // Seq of the one before; a larger distance says that the outbox was full and dropped some
	Time    time.Time       `json:"time"`   // the device's clock: a claim
	Body    json.RawMessage `json:"body"`
}

// Hello asks for a challenge, at the begin of a connection and to be judged anew.
type Hello struct {
	Version   int    `json:"v"`         // 1
	Software  string `json:"software"`  // agent version
	Boot      string `json:"boot"`      // random, one per agent start
	Connected bool   `json:"connected"` // first of a connection: what waits for the device is delivered
}

// Challenge asks for evidence over Nonce.
type Challenge struct {
	Nonce    []byte    `json:"nonce"` // 32 random bytes, single use
	Expires  time.Time `json:"expires"`
	EventLog string    `json:"event_log,omitempty"` // SHA-256 (hex) of the event log the fleet already holds of this device
	IMALog   *Held     `json:"ima_log,omitempty"`   // how much of the IMA list the fleet already holds
}

// Held says how much of an append-only log the other side has.
type Held struct {
	Size   int64  `json:"size"`   // bytes
	Digest string `json:"digest"` // SHA-256 (hex) of these
}

// Gate says what a verdict means for the device's certificate.
type Gate string

// The four answers of the gate (docs/protocol.md, "The gate").
const (
	GateFull       Gate = "full"       // full life
	GateShort      Gate = "short"      // short life
	GateQuarantine Gate = "quarantine" // a quarantine certificate only
	GateRevoked    Gate = "revoked"    // nothing
)

// Verdict tells a device how it was judged, in the words that operators see.
type Verdict struct {
	Version     int       `json:"v"`
	Device      string    `json:"device"`
	Nonce       []byte    `json:"nonce"` // of the challenge that was answered
	Issued      time.Time `json:"issued"`
	Grade       string    `json:"grade"` // trusted, degraded, untrusted
	Gate        Gate      `json:"gate"`
	Explanation []string  `json:"explanation"`      // lines; the first is the summary
	Renew       bool      `json:"renew"`            // the certificate in use is not the one the gate allows: renew now
	Result      string    `json:"result,omitempty"` // the same for others: a signed attestation result, valid for minutes
}

// Summary is the first line of the explanation; without one, the grade.
func (v Verdict) Summary() string {
	if len(v.Explanation) == 0 {
		return v.Grade
	}
	return v.Explanation[0]
}

// Ack says that the fleet has durably taken in all of Stream up to UpTo.
// A device rewinds to UpTo when it lies below what it sent.
type Ack struct {
	Stream string `json:"stream"`
	UpTo   uint64 `json:"up_to"`
}

// Signed carries a message whose origin matters more than its way: neither a
// broker nor another device can make one.
type Signed struct {
	Payload   []byte `json:"payload"`   // the exact bytes that were signed
	Signature []byte `json:"signature"` // ed25519 over SignedBytes(topic, Payload)
}

// SignedBytes is what a fleet message key signs: "gw-down-v1" || 0 || topic || 0
// || payload. The topic binds the message to one device and one kind.
func SignedBytes(topic string, payload []byte) []byte {
	b := append([]byte("gw-down-v1\x00"), topic...)
	return append(append(b, 0), payload...)
}

// OpenSigned verifies data, a Signed that arrived on topic, against any of keys
// and decodes its payload, which informs, into body.
func OpenSigned(keys []ed25519.PublicKey, topic string, data []byte, body any) error {
	var s Signed
	if err := strictjson.Inform(data, &s); err != nil {
		return fmt.Errorf("decode signed message: %w", err)
	}
	message := SignedBytes(topic, s.Payload)
	for _, key := range keys {
		if len(key) == ed25519.PublicKeySize && ed25519.Verify(key, message, s.Signature) {
			return strictjson.Inform(s.Payload, body)
		}
	}
	return fmt.Errorf("signature is by none of the %d message keys of this fleet", len(keys))
}
