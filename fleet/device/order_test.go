package device_test

import (
	"bytes"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"testing"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// Two questions are under way, as when a gateway renews while the broker's challenge
// is answered, and the second answer arrives first: over a reboot, too. Whoever holds
// the broker can have it so as often as he likes.
func TestEvidenceThatWasOvertakenIsNoSignOfAnAlteredChip(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	b := w.box()
	own := b.enrol()
	by := w.by(own)
	claim := spkiOf(t, own.Leaf.PublicKey)
	ask := func() (c wire.Challenge) {
		t.Helper()
		w.ok(by(wire.PathChallenge, struct{}{}), &c)
		return c
	}
	first := ask()
	early := b.evidence(first, claim)
	w.ok(by(wire.PathEvidence, b.evidence(ask(), claim)), nil)
	before, err := w.store.Device(t.Context(), b.id)
	w.must(err)
	w.refused(by(wire.PathEvidence, early), http.StatusForbidden, "evidence.order")
	after, err := w.store.Device(t.Context(), b.id)
	w.must(err)
	if after.State != registry.Active || after.Grade != before.Grade || !after.GradeAt.Equal(before.GradeAt) {
		t.Errorf("it is %s and %s since %s; it was %s since %s", after.State, after.Grade, after.GradeAt, before.Grade, before.GradeAt)
	}
	// A copy of the chip's state that was set back answers what was asked after it.
	memory, err := w.store.Memory(t.Context(), b.id)
	w.must(err)
	w.must(w.store.SetMemory(t.Context(), b.id, later(t, memory)))
	var v wire.Verdict
	w.ok(by(wire.PathEvidence, b.evidence(ask(), claim)), &v)
	if v.Grade != string(attest.Untrusted) {
		t.Errorf("a chip whose clock went back is %s: %q", v.Grade, v.Explanation)
	}
}

// later is what the fleet remembers of a device, with its chip's clock an hour on.
func later(t *testing.T, memory []byte) []byte {
	t.Helper()
	clock := regexp.MustCompile(`"ms":\d+`)
	was := clock.Find(memory)
	ms, err := strconv.ParseUint(string(was[len(`"ms":`):]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Replace(memory, was, fmt.Appendf(nil, `"ms":%d`, ms+3_600_000), 1)
}
