package dispatch

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/mqttconn"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const (
	known  = "gw-aaaaaaaaaaaaaaaa"
	fallen = "gw-bbbbbbbbbbbbbbbb"
)

// The way through broker and database is tested in e2e/messages; here is what
// only a failing registry shows.

func newDispatcher(tb testing.TB, r Registry) *Dispatcher {
	tb.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		tb.Fatal(err)
	}
	d, err := New(Config{
		Brokers: []string{"mqtts://127.0.0.1:1"}, TLS: func() (*tls.Config, error) { return nil, errors.New("none") },
		Registry: r, MessageKey: key, OnHello: func(context.Context, string, string, wire.Hello) {},
		OnEvidence: func(context.Context, string, string, []byte) {}, Now: time.Now, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// failing is a registry that can't store sequence number bad.
type failing struct {
	Registry
	bad    uint64
	groups int
}

func (f *failing) Device(_ context.Context, id string) (registry.Device, error) {
	switch id {
	case known:
		return registry.Device{ID: id, State: registry.Active}, nil
	case fallen:
		return registry.Device{ID: id, State: registry.Quarantined}, nil
	case "gw-revoked":
		return registry.Device{ID: id, State: registry.Revoked}, nil
	}
	return registry.Device{}, registry.ErrNotFound
}

func (f *failing) AcceptAll(_ context.Context, ms []registry.Message) ([]registry.Acceptance, error) {
	f.groups++
	var all []registry.Acceptance
	for _, m := range ms {
		if m.Seq == f.bad {
			return nil, errors.New("disk is full")
		}
		all = append(all, registry.Acceptance{Accepted: true, UpTo: m.Seq})
	}
	return all, nil
}

func group(device string, stream string, seqs ...uint64) []incoming {
	var all []incoming
	for _, seq := range seqs {
		all = append(all, incoming{identity: device, device: device, kind: wire.KindLinkTest,
			up: wire.Up{Version: 1, Stream: stream, Seq: seq, Prev: seq - 1, Body: json.RawMessage(`{"run":"r","index":1,"of":1}`)}})
	}
	return all
}

func TestOneMessageThatCanNotBeStoredDoesNotKeepOutOthers(t *testing.T) {
	d := newDispatcher(t, &failing{bad: 7})
	acks := d.accept(t.Context(), append(group(known, "a", 1, 2, 3), group(known, "b", 7)...))
	if len(acks) != 1 || acks[ackKey{known, "a"}] != 3 {
		t.Errorf("acks %v, want only a up to 3", acks)
	}
}

func TestNothingIsAcknowledgedThatIsNotStored(t *testing.T) {
	r := &failing{bad: 1}
	d := newDispatcher(t, r)
	if acks := d.accept(t.Context(), group(known, "a", 1)); len(acks) != 0 {
		t.Errorf("acks %v for a failed transaction", acks)
	}
	if acks := d.accept(t.Context(), append(group("gw-unknown", "a", 2), group("gw-revoked", "a", 2)...)); len(acks) != 0 {
		t.Errorf("acks %v for unknown or revoked devices", acks)
	}
	if r.groups != 1 {
		t.Errorf("%d transactions: messages of unknown devices reached the registry", r.groups)
	}
}

func TestOneAckForEachStreamOfAGroup(t *testing.T) {
	r := &failing{}
	d := newDispatcher(t, r)
	acks := d.accept(t.Context(), append(group(known, "a", 1, 2, 3, 4), group(known, "b", 1, 2)...))
	if len(acks) != 2 || acks[ackKey{known, "a"}] != 4 || acks[ackKey{known, "b"}] != 2 || r.groups != 1 {
		t.Errorf("acks %v in %d transactions", acks, r.groups)
	}
}

func TestSendingToWhatIsNoDeviceIsRefused(t *testing.T) {
	d := newDispatcher(t, &failing{})
	for _, identity := range []string{"", "+", "#", wire.FleetIdentity, "gw-x/down/command"} {
		if err := d.Send(t.Context(), identity, wire.KindChallenge, 1); err == nil || errors.Is(err, ErrNotConnected) {
			t.Errorf("%q: %v", identity, err)
		}
	}
	if err := d.Send(t.Context(), known, wire.KindChallenge, 1); !errors.Is(err, ErrNotConnected) {
		t.Errorf("without a connection: %v", err)
	}
}

func TestRetainedAndForeignMessagesAreIgnored(t *testing.T) {
	d := newDispatcher(t, &failing{})
	good := []byte(`{"v":1,"stream":"s","seq":1,"prev":0,"time":"2026-01-01T00:00:00Z","body":{}}`)
	for _, m := range []mqttconn.Message{
		{Topic: wire.UpTopic(known, wire.KindHealth), Payload: good, Retained: true},
		{Topic: wire.UpTopic("fleet", wire.KindHealth), Payload: good}, {Topic: wire.DownTopic(known, wire.KindHealth), Payload: good}, {},
	} {
		d.receive(t.Context(), m)
	}
	if len(d.ups) != 0 || d.Malformed() != 4 {
		t.Errorf("%d were taken in, %d counted", len(d.ups), d.Malformed())
	}
}

func TestUpdateComesWithItsMessageUnlessItIsOutOfRange(t *testing.T) {
	d := newDispatcher(t, &failing{})
	long := strings.Repeat("a", maxStream+1)
	for name, c := range map[string]struct {
		change func(*wire.Update)
		taken  bool
	}{
		"as it should be": {func(*wire.Update) {}, true}, "long id": {func(u *wire.Update) { u.ID = long }, false}, "no id": {func(u *wire.Update) { u.ID = "" }, false},
		"long release": {func(u *wire.Update) { u.Release = long }, false}, "long source": {func(u *wire.Update) { u.From = long }, false},
		"long product": {func(u *wire.Update) { u.Product = long }, false}, "long channel": {func(u *wire.Update) { u.Channel = long }, false},
		"long rule": {func(u *wire.Update) { u.Rule = long }, false}, "long reason": {func(u *wire.Update) { u.Text = strings.Repeat("a", wire.MaxText+1) }, false},
		"state with a space": {func(u *wire.Update) { u.State = "a b" }, false}, "fewer than no bytes": {func(u *wire.Update) { u.Fetched = -1 }, false},
	} {
		u := wire.Update{Version: 1, ID: "a", State: "trying", Release: "2.0.0", From: "1.0.0", Began: time.Unix(1000, 0).UTC()}
		c.change(&u)
		body, err := json.Marshal(u)
		if err != nil {
			t.Fatal(err)
		}
		row, err := d.row(t.Context(), incoming{identity: known, device: known, kind: wire.KindUpdate, up: wire.Up{Version: 1, Stream: "s", Seq: 1, Body: body}})
		if err != nil || (row.Update != nil) != c.taken || (row.Kind == "malformed") == c.taken {
			t.Errorf("%s: %+v, %v", name, row, err)
		}
		if c.taken && *row.Update != u {
			t.Errorf("%s: %+v, want %+v", name, *row.Update, u)
		}
	}
}

// An external broker may still let the full identity in.
func TestDeviceInQuarantineIsHeardUnderItsQuarantineIdentityOnly(t *testing.T) {
	d := newDispatcher(t, &failing{})
	full, quarantined := group(fallen, "a", 1), group(fallen, "a", 1)
	quarantined[0].identity = wire.QuarantineID(fallen)
	if acks := d.accept(t.Context(), full); len(acks) != 0 {
		t.Errorf("acks %v under the full identity", acks)
	}
	if acks := d.accept(t.Context(), quarantined); len(acks) != 1 {
		t.Errorf("acks %v under the quarantine identity", acks)
	}
	if !heard(registry.Active, wire.QuarantineID(known)) || heard(registry.Revoked, wire.QuarantineID(known)) || heard(registry.Decommissioned, known) {
		t.Error("a healed device is not heard before it has connected anew, or one that is out is")
	}
}
