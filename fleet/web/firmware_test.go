package web

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
)

// TestFirmwareThatManyShowIsProposedWithItsShare: an operator sees how many changed
// alike before he decides, and nothing once he did.
func TestFirmwareThatManyShowIsProposedWithItsShare(t *testing.T) {
	store := openRegistry(t)
	s := seeder{t, store, t.Context()}
	ids := seed(t, store)
	h := newSite(t, store)
	page := func() string { return text(get(t, h, "/")) }
	if strings.Contains(page(), "Firmware that nobody approved") {
		t.Error("a proposal where there is none")
	}
	for i, host := range []string{"pump-house-1", "substation-11", "tunnel-west"} {
		m := &registry.Measured{Hash: "0123456789abcdef0123", Body: json.RawMessage(`{}`), Text: "firmware is not approved: event 3 measures `x`"}
		if i == 0 {
			m = &registry.Measured{Hash: "old", Body: json.RawMessage(`{}`), Approved: true}
		}
		d, err := store.Device(t.Context(), ids[host])
		s.ok(err)
		s.ok(s.AddVerdict(s.ctx, registry.Verdict{Device: d.ID, At: now.Add(-time.Minute), Grade: "degraded", Firmware: m,
			Explanation: []string{"degraded: firmware", "proposed: if this firmware was meant, approve the set"}}))
		if i == 1 {
			wants(t, page(), d.Model+": 1 of ", "firmware is not approved: event 3 measures x", "gatewarden-fleet firmware approve 0123456789abcdef --name NAME", "first seen 1 min ago")
			wants(t, text(get(t, h, "/devices/"+d.ID)), "What would accept it if this firmware was meant, approve the set")
		}
	}
	model, err := store.Device(t.Context(), ids["substation-11"])
	s.ok(err)
	s.ok(s.AddFirmware(s.ctx, model.Model, "F.22", "0123456789abcdef0123", []byte(`{}`), "mira", now))
	if strings.Contains(page(), model.Model+": 1 of ") {
		t.Error("approved firmware is still proposed")
	}
}
