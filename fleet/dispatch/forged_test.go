package dispatch

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"testing"

	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/bound"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// TestForgedHealthAndEventsRaiseAnAlarm: whoever alters one on its way has to alter
// the hash that the quote names too.
func TestForgedHealthAndEventsRaiseAnAlarm(t *testing.T) {
	d := newDispatcher(t, &failing{})
	line, err := json.Marshal(bound.Entry{Version: 1, Index: 1, Name: "secret.sealed", Text: "secret wifi was sealed", Prev: hex.EncodeToString(make([]byte, 32))})
	if err != nil {
		t.Fatal(err)
	}
	head := bound.Head([sha256.Size]byte{}, line)
	event := wire.Event{Version: 1, Name: "secret.sealed", Text: "secret wifi was sealed", Index: 1, Head: hex.EncodeToString(head[:]), Entry: line}
	health := wire.Health{Version: 1, Findings: []wire.Finding{{Check: "disk", Status: "critical", Summary: "full"}}}
	health.Posture = bound.Posture(health.Findings)
	take := func(kind wire.Kind, body any) (registry.Message, string) {
		t.Helper()
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		var row registry.Message
		var bad *badBody
		switch err := d.effects(t.Context(), incoming{device: known, kind: kind, up: wire.Up{Body: raw}}, &row); {
		case errors.As(err, &bad):
			return row, bad.kind + " " + bad.severity
		case err != nil:
			t.Fatal(err)
		}
		return row, ""
	}
	row, refused := take(wire.KindEvent, event)
	if refused != "" || len(row.Timeline) != 1 || row.Timeline[0].Head != event.Head || row.Timeline[0].Proof != registry.ProofClaimed {
		t.Errorf("genuine event: %s, %+v", refused, row.Timeline)
	}
	if _, refused := take(wire.KindHealth, health); refused != "" {
		t.Errorf("genuine report: %s", refused)
	}
	event.Text = "secret wifi was opened"
	if row, refused := take(wire.KindEvent, event); refused != "event.forged alarm" || len(row.Timeline) > 0 {
		t.Errorf("altered event: %q, %+v", refused, row.Timeline)
	}
	health.Findings[0].Status = "ok"
	if _, refused := take(wire.KindHealth, health); refused != "health.forged alarm" {
		t.Errorf("altered report: %q", refused)
	}
	// Without its entry an event is no more than somebody's word.
	event.Entry = nil
	if row, refused := take(wire.KindEvent, event); refused != "" || row.Timeline[0].Head != "" || row.Timeline[0].Proof != registry.ProofClaimed {
		t.Errorf("event without entry: %q, %+v", refused, row.Timeline)
	}
}
