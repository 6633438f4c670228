package device_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// The server's clock was a year ahead for a while. What it did then keeps no gateway
// out afterwards, and lets none in by a verdict or a quote of before.
func TestServersClockThatWasAheadStrandsAndWidensNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	b := w.box()
	w.ahead.Store(int64(365 * 24 * time.Hour))
	old := b.enrol() // enrolled, approved, judged and certified in the future
	kept := b.ticket()
	var challenge wire.Challenge
	w.ok(kept.call(wire.PathChallenge, struct{}{}), &challenge)
	w.ahead.Store(0)

	if a, err := w.try(w.by(old)(wire.PathChallenge, struct{}{})); err == nil && a.status == http.StatusOK {
		t.Error("a certificate of next year is taken")
	}
	one := b.ticket()
	claim := spkiOf(t, one.key.Public())
	a := w.do(one.simpleEnroll())
	var asked wire.Challenge
	if a.status != http.StatusAccepted || json.Unmarshal(a.body, &asked) != nil || len(asked.Nonce) == 0 {
		t.Fatalf("by a verdict of next year: %d %s", a.status, a.body)
	}
	w.refused(one.call(wire.PathEvidence, b.evidence(challenge, claim)), http.StatusForbidden, "evidence.nonce")
	b.attest(one.call, claim)
	if a := w.do(one.simpleEnroll()); a.status != http.StatusOK {
		t.Fatalf("with a verdict of now: %d %s", a.status, a.body)
	}
	if d, err := w.store.Device(t.Context(), b.id); err != nil || d.State != registry.Active {
		t.Errorf("it is %s, %v", d.State, err)
	}
}
