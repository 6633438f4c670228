// Package bound is what a quote proves beside the boot: the health report, the
// audit log and the outcomes of updates. Claims hold two hashes; device and fleet
// compute them here, from the messages that a broker carries unsigned.
//
// Its promise: what Open and Posture agree to is word for word what the device
// hashed. That a TPM quoted the hash is for the caller to compare.
package bound

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// Posture hashes findings: SHA-256 (hex) over the JSON list of [check, status,
// summary] in the order given. Times are left out, so that the same state has
// the same posture.
func Posture(findings []wire.Finding) string {
	rows := make([][3]string, 0, len(findings))
	for _, f := range findings {
		rows = append(rows, [3]string{f.Check, f.Status, f.Summary})
	}
	text, err := json.Marshal(rows)
	if err != nil { // strings always encode; were it otherwise, no posture matches ""
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// Entry is a line of the audit log.
type Entry struct {
	Version int       `json:"v"` // 1
	Index   uint64    `json:"index"`
	Time    time.Time `json:"time"`
	Name    string    `json:"name"`
	Text    string    `json:"text"`
	Prev    string    `json:"prev"` // head before it (hex); zeros for the first
}

// Head is the head of the audit log after line: SHA-256(head before || line), the
// line without its newline.
func Head(prev [sha256.Size]byte, line []byte) [sha256.Size]byte {
	return sha256.Sum256(append(prev[:], line...))
}

// Decode reads a line of the audit log, and the head before it.
func Decode(line []byte) (Entry, [sha256.Size]byte, error) {
	var e Entry
	var prev [sha256.Size]byte
	if err := strictjson.Inform(line, &e); err != nil {
		return e, prev, err
	}
	raw, err := hex.DecodeString(e.Prev)
	if err != nil || len(raw) != len(prev) || e.Version != 1 || e.Index == 0 {
		return e, prev, errors.New("a field is missing or malformed")
	}
	return e, [sha256.Size]byte(raw), nil
}

// Open checks that an event is the audit entry that it carries, and that its head
// is the one after that entry. It returns the head before it (hex). An event of an
// agent that sends no entry is an error.
func Open(e wire.Event) (prev string, err error) {
	entry, before, err := Decode(e.Entry)
	if err != nil {
		return "", fmt.Errorf("read audit entry: %w", err)
	}
	head := Head(before, e.Entry)
	if e.Head != hex.EncodeToString(head[:]) || e.Index != entry.Index || e.Name != entry.Name || e.Text != entry.Text {
		return "", errors.New("the event is not the audit entry that it carries")
	}
	return entry.Prev, nil
}

// Outcome is the audit entry of an update that ended.
func Outcome(u wire.Update) (name, text string) {
	text = strings.TrimSpace(fmt.Sprintf("release %s over %s: %s %s %s", u.Release, u.From, u.Outcome, u.Rule, u.Text))
	return "update." + u.Outcome, Cut(text, wire.MaxText)
}

// Cut shortens s to at most n bytes of valid UTF-8.
func Cut(s string, n int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
