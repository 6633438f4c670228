package dispatch

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/bound"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// sayMore adds a key of a later release to each object of a message.
func sayMore(t *testing.T, v any) json.RawMessage {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	more := `{"of_a_later_release":{"a":[1,{"b":null}]}`
	return json.RawMessage(strings.ReplaceAll(string(data), `{"`, more+`,"`))
}

// TestNewerAgentMaySayMoreInWhatInforms: the fleet takes what it knows, in each kind
// of message, and marks nothing as malformed or forged.
func TestNewerAgentMaySayMoreInWhatInforms(t *testing.T) {
	line := sayMore(t, bound.Entry{Version: 1, Index: 1, Name: "agent.started", Text: "started", Prev: hex.EncodeToString(make([]byte, 32))})
	head := bound.Head([sha256.Size]byte{}, line)
	health := wire.Health{Version: 1, Findings: []wire.Finding{{Check: "disk", Status: "ok", Summary: "half full"}}}
	health.Posture = bound.Posture(health.Findings)
	d := newDispatcher(t, &failing{})
	for kind, body := range map[wire.Kind]any{
		wire.KindHealth:   health,
		wire.KindEvent:    wire.Event{Version: 1, Name: "agent.started", Text: "started", Index: 1, Head: hex.EncodeToString(head[:]), Entry: line},
		wire.KindLinkTest: wire.LinkTest{Run: "r", Index: 1, Of: 1},
		wire.KindUpdate:   wire.Update{Version: 1, ID: "u", State: "fetching"},
	} {
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		up, err := decodeUp(sayMore(t, wire.Up{Version: 1, Stream: "s", Seq: 1, Body: raw}))
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		row, err := d.row(t.Context(), incoming{identity: known, device: known, kind: kind, up: up})
		if err != nil || row.Kind != string(kind) || d.Malformed() > 0 {
			t.Errorf("%s is taken in as %s: %v", kind, row.Kind, err)
		}
	}
	var hello wire.Hello
	if err := decodeHello(sayMore(t, wire.Hello{Version: 1, Software: "9.0.0"}), &hello); err != nil || hello.Software != "9.0.0" {
		t.Errorf("hello: %+v, %v", hello, err)
	}
	receipt, err := readReceipt(known, sayMore(t, wire.ReceiptBody{Version: 1, Device: known, Envelope: strings.Repeat("0", 64), Outcome: wire.OutcomeDone}))
	if err != nil || receipt.Outcome != wire.OutcomeDone {
		t.Errorf("receipt: %+v, %v", receipt, err)
	}
}

// TestVersionThatWouldBeMisreadIsRefusedInWords: a new number means that passing
// over is not enough.
func TestVersionThatWouldBeMisreadIsRefusedInWords(t *testing.T) {
	d := newDispatcher(t, &failing{})
	for _, kind := range []wire.Kind{wire.KindHealth, wire.KindEvent, wire.KindUpdate} {
		in := incoming{identity: known, device: known, kind: kind, up: wire.Up{Version: 1, Stream: "s", Seq: 1, Body: json.RawMessage(`{"v":2}`)}}
		if err := d.effects(t.Context(), in, new(registry.Message)); err == nil || !strings.Contains(err.Error(), "update the server") {
			t.Errorf("%s: %v", kind, err)
		}
	}
}
