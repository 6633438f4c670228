package dispatch

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/wire"
)

func FuzzUpIsRefusedOrCanBeStored(f *testing.F) {
	f.Add([]byte(`{"v":1,"stream":"abc-s","seq":2,"prev":1,"time":"2026-01-01T00:00:00Z","body":{"a":1}}`))
	f.Add([]byte(`{"v":1,"stream":"","seq":18446744073709551615,"prev":0,"time":"2026-01-01T00:00:00Z","body":null}`))
	f.Add([]byte(`[[[[`))
	f.Fuzz(func(t *testing.T, data []byte) {
		up, err := decodeUp(data)
		if err != nil {
			return
		}
		if up.Seq == 0 || up.Prev >= up.Seq || int64(up.Seq) < 0 || len(up.Stream) > maxStream || !json.Valid(up.Body) {
			t.Fatalf("%q was accepted as %+v", data, up)
		}
		again, err := json.Marshal(up)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := decodeUp(again); err != nil || second.Seq != up.Seq || second.Stream != up.Stream {
			t.Fatalf("%q was accepted, its own encoding was not: %v", data, err)
		}
	})
}

// Whatever a body is, the message gets a row: else its stream would stop.
func FuzzEveryBodyGetsARow(f *testing.F) {
	for _, kind := range []wire.Kind{wire.KindHealth, wire.KindEvent, wire.KindReceipt, wire.KindLinkTest, wire.KindUpdate} {
		f.Add(string(kind), []byte(`{"v":1,"id":"a","state":"trying","release":"2.0.0","bytes_fetched":7,"began":"2026-01-01T00:00:00Z"}`))
		f.Add(string(kind), []byte(`{"v":1,"name":"a.b","text":"x","run":"r","payload":"","serial":"1","signature":""}`))
		f.Add(string(kind), []byte(`{"v":1,"name":"a.b","text":"x","index":1,"head":""}`))
		f.Add(string(kind), []byte(`7`))
	}
	d := newDispatcher(f, emptyRegistry{})
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		if !json.Valid(body) {
			return
		}
		in := incoming{identity: known, device: known, kind: wire.Kind(kind), up: wire.Up{Version: 1, Stream: "s", Seq: 1, Body: body}}
		row, err := d.row(context.Background(), in)
		if err != nil || row.Seq != 1 || row.Kind != kind && row.Kind != "malformed" {
			t.Fatalf("%s %q: %+v, %v", kind, body, row, err)
		}
		for _, e := range row.Timeline {
			if len(e.Text) > 2*wire.MaxText || len(e.Kind) > maxStream {
				t.Fatalf("%q gave a timeline entry of %d bytes", body, len(e.Text))
			}
		}
		if u := row.Update; u != nil && (row.Kind == "malformed" || len(u.ID+u.State+u.Outcome+u.Rule+u.Product+u.Channel+u.Release+u.From) > 8*maxStream || len(u.Text) > wire.MaxText) {
			t.Fatalf("%q gave the update %+v", body, u)
		}
		if row.Receipt != nil {
			t.Fatalf("%q passed as a receipt that nobody signed", body)
		}
	})
}

// emptyRegistry knows one device and no certificate.
type emptyRegistry struct{ Registry }

func (emptyRegistry) Certificate(context.Context, string) (registry.Certificate, error) {
	return registry.Certificate{}, registry.ErrNotFound
}
