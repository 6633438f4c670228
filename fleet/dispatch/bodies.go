package dispatch

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/bound"
	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// maxFindings is how many findings one health message may carry.
const maxFindings = 256

func checkHealth(body []byte) error {
	var h wire.Health
	if err := strictjson.Inform(body, &h); err != nil {
		return malformed(err)
	}
	if h.Version != 1 {
		return malformed(ofVersion(h.Version))
	}
	if len(h.Findings) > maxFindings {
		return malformed(errors.New("too many findings"))
	}
	for _, f := range h.Findings {
		if len(f.Check) > maxStream || len(f.Summary) > wire.MaxText {
			return malformed(errors.New("a finding is too long"))
		}
	}
	if h.Posture != bound.Posture(h.Findings) {
		return &badBody{kind: "health.forged", severity: registry.Alarm, cause: errors.New("its posture is not that of its findings")}
	}
	return nil
}

func checkLinkTest(body []byte) error {
	var l wire.LinkTest
	if err := strictjson.Inform(body, &l); err != nil {
		return malformed(err)
	}
	if l.Run == "" || len(l.Run) > maxStream {
		return malformed(errors.New("run has no valid name"))
	}
	return nil
}

func decodeUpdate(body []byte) (wire.Update, error) {
	var u wire.Update
	if err := strictjson.Inform(body, &u); err != nil {
		return u, malformed(err)
	}
	if u.Version != 1 {
		return u, malformed(ofVersion(u.Version))
	}
	if u.ID == "" || !eventName(u.State) || u.Outcome != "" && !eventName(u.Outcome) || len(u.Text) > wire.MaxText {
		return u, malformed(errors.New("id, state, outcome or text is out of range"))
	}
	for _, word := range []string{u.ID, u.Rule, u.Product, u.Channel, u.Release, u.From} {
		if len(word) > maxStream {
			return u, malformed(errors.New("id, rule, product, channel, release or from is too long"))
		}
	}
	if u.Chunks < 0 || u.Fetched < 0 || u.Attempts < 0 {
		return u, malformed(errors.New("a count is below zero"))
	}
	return u, nil
}

func decodeEvent(body []byte) (wire.Event, error) {
	var e wire.Event
	if err := strictjson.Inform(body, &e); err != nil {
		return e, malformed(err)
	}
	if e.Version != 1 {
		return e, malformed(ofVersion(e.Version))
	}
	if !eventName(e.Name) || len(e.Text) > wire.MaxText {
		return e, malformed(errors.New("name or text is out of range"))
	}
	return e, nil
}

// entryOf is the line of the timeline that an event makes. What it says is the
// broker's word until a quote names an audit head behind it.
func entryOf(e wire.Event) (registry.Event, error) {
	line := registry.Event{Kind: e.Name, Severity: severityOf(e.Name), Text: e.Text, Proof: registry.ProofClaimed}
	if len(e.Entry) == 0 {
		return line, nil
	}
	prev, err := bound.Open(e)
	if err != nil {
		return line, &badBody{kind: "event.forged", severity: registry.Alarm, cause: err}
	}
	line.Prev, line.Head = prev, e.Head
	return line, nil
}

func eventName(s string) bool {
	return s != "" && len(s) <= maxStream && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789.-_") == ""
}

// severityOf reads an event's severity from the last word of its name.
func severityOf(name string) string {
	switch name[strings.LastIndexByte(name, '.')+1:] {
	case "refused", "failed", "lost", "damaged", "dropped", "expired", "unknown", "rolled-back":
		return registry.Warning
	}
	return registry.Info
}

// verifyReceipt believes a receipt only if a key that this fleet certified for
// this device signed it: neither broker nor another device can make one. A
// certificate revoked since does not undo what its key said before.
func (d *Dispatcher) verifyReceipt(ctx context.Context, device string, body []byte) (registry.ReceiptRecord, error) {
	var none registry.ReceiptRecord
	var r wire.Receipt
	if err := strictjson.Inform(body, &r); err != nil {
		return none, malformed(err)
	}
	cert, err := d.cfg.Registry.Certificate(ctx, r.Serial)
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return none, forged(errors.New("it names a certificate that this fleet did not issue"))
	case err != nil:
		return none, err
	case cert.Device != device:
		return none, forged(errors.New("it names another device's certificate"))
	}
	leaf, err := x509.ParseCertificate(cert.DER)
	if err != nil {
		return none, fmt.Errorf("parse certificate %s of the registry: %w", cert.Serial, err)
	}
	digest := sha256.Sum256(wire.ReceiptBytes(r.Payload))
	if key, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !ecdsa.VerifyASN1(key, digest[:], r.Signature) {
		return none, forged(errors.New("its signature is wrong"))
	}
	return readReceipt(device, r.Payload)
}

func forged(cause error) *badBody {
	return &badBody{kind: "receipt.forged", severity: registry.Alarm, cause: cause}
}

// readReceipt reads what the device signed.
func readReceipt(device string, payload []byte) (registry.ReceiptRecord, error) {
	var none registry.ReceiptRecord
	var body wire.ReceiptBody
	if err := strictjson.Inform(payload, &body); err != nil {
		return none, malformed(err)
	}
	hash, err := hex.DecodeString(body.Envelope)
	switch {
	case body.Version != 1:
		return none, malformed(ofVersion(body.Version))
	case body.Device != device:
		return none, forged(errors.New("it is about another device"))
	case err != nil || len(hash) != sha256.Size:
		return none, malformed(errors.New("envelope is not a SHA-256"))
	case !eventName(body.Outcome) || len(body.Rule) > maxStream || len(body.Text) > wire.MaxText:
		return none, malformed(errors.New("outcome, rule or text is out of range"))
	}
	return registry.ReceiptRecord{
		Device: device, Envelope: hex.EncodeToString(hash), Outcome: body.Outcome, Rule: body.Rule, Text: body.Text,
	}, nil
}
