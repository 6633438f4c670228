package registrytest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/wire"
)

func verdicts(t *testing.T, s *registry.Store) {
	ctx := t.Context()
	id := enroll(t, s, 1)
	if _, err := s.LastVerdict(ctx, id); !isNotFound(err) {
		t.Errorf("no verdict yet: %v", err)
	}
	if m, err := s.Memory(ctx, id); m != nil || err != nil {
		t.Errorf("no memory yet: %s, %v", m, err)
	}
	first := registry.Verdict{
		Device: id, At: start(), Grade: "trusted", Gate: "full", Explanation: []string{"trusted: all held"},
		Rules: json.RawMessage(`[]`), Facts: json.RawMessage(`{"a":1}`), Claims: json.RawMessage(`{"v":1}`), Memory: json.RawMessage(`{"clock":1}`),
	}
	second := registry.Verdict{Device: id, At: start().Add(time.Hour), Grade: "untrusted", Gate: "quarantine", Explanation: []string{"untrusted: x", "y"}}
	must(t, s.AddVerdict(ctx, first))
	must(t, s.AddVerdict(ctx, second))
	first.Memory = nil
	got, err := s.Verdicts(ctx, id, 0)
	must(t, err)
	if want := []registry.Verdict{second, first}; !reflect.DeepEqual(got, want) {
		t.Errorf("verdicts %+v, want %+v", got, want)
	}
	if last, err := s.LastVerdict(ctx, id); err != nil || !reflect.DeepEqual(last, second) {
		t.Errorf("last %+v, %v", last, err)
	}
	if m, err := s.Memory(ctx, id); string(m) != `{"clock":1}` || err != nil {
		t.Errorf("memory %s, %v: a verdict without one must leave it", m, err)
	}
	must(t, s.SetMemory(ctx, id, json.RawMessage(`{}`)))
	if m, err := s.Memory(ctx, id); string(m) != `{}` || err != nil {
		t.Errorf("memory %s, %v", m, err)
	}
	if d, err := s.Device(ctx, id); err != nil || d.Grade != "untrusted" || !d.GradeAt.Equal(second.At) {
		t.Errorf("device %+v, %v", d, err)
	}
	if err := s.AddVerdict(ctx, registry.Verdict{Device: deviceID(9), Grade: "trusted"}); !isNotFound(err) {
		t.Errorf("a verdict on nobody: %v", err)
	}
}

func reference(t *testing.T, s *registry.Store) {
	ctx := t.Context()
	sum := sha256.Sum256([]byte("log"))
	digest := hex.EncodeToString(sum[:])
	if _, err := s.Log(ctx, digest); !isNotFound(err) {
		t.Errorf("a log that nobody sent: %v", err)
	}
	for range 2 {
		must(t, s.PutLog(ctx, digest, []byte("log"), start()))
	}
	if got, err := s.Log(ctx, digest); string(got) != "log" || err != nil {
		t.Errorf("log %q, %v", got, err)
	}
	if err := s.PutLog(ctx, digest, []byte("lag"), start()); err == nil {
		t.Error("a log was stored under another one's digest")
	}
	for range 2 {
		must(t, s.AddFirmware(ctx, "box", "1.0", "a", json.RawMessage(`{"n":1}`), "alice", start()))
		must(t, s.AddFirmware(ctx, "box", "1.1", "b", json.RawMessage(`{"n":2}`), "alice", start()))
	}
	sets, err := s.Firmware(ctx, "box")
	must(t, err)
	if len(sets) != 2 || string(sets[0]) != `{"n":1}` || string(sets[1]) != `{"n":2}` {
		t.Errorf("firmware %s", sets)
	}
	if sets, err := s.Firmware(ctx, "crate"); len(sets) != 0 || err != nil {
		t.Errorf("firmware of another model: %s, %v", sets, err)
	}
}

func commands(t *testing.T, s *registry.Store) {
	ctx := t.Context()
	id := enroll(t, s, 1)
	envelope := func(command string) []byte {
		b, err := json.Marshal(wire.Envelope{Command: []byte(command), Signatures: []string{"sig"}})
		must(t, err)
		return b
	}
	good := registry.CommandRecord{ID: "c1", Device: id, Envelope: envelope("one"), Verb: "ping", Reason: "r", Signers: []string{"alice"}, Created: start(), Expires: start().Add(time.Hour)}
	altered := registry.CommandRecord{ID: "c1", Device: id, Envelope: envelope("onE"), Verb: "ping", Created: start()}
	must(t, s.AddCommand(ctx, good))
	must(t, s.AddCommand(ctx, altered))
	if err := s.AddCommand(ctx, registry.CommandRecord{Device: id, Envelope: []byte("garbage")}); err == nil {
		t.Error("garbage was queued")
	}
	pending := func(now time.Time) (ids []string) {
		cs, err := s.PendingCommands(ctx, id, now)
		must(t, err)
		with, err := s.DevicesWithCommands(ctx, now)
		must(t, err)
		if len(with) != min(len(cs), 1) || len(with) == 1 && with[0] != id {
			t.Errorf("with %d commands pending of %s, the devices with some are %q", len(cs), id, with)
		}
		for _, c := range cs {
			ids = append(ids, c.Hash)
		}
		return ids
	}
	hash, alteredHash := registry.CommandHash([]byte("one")), registry.CommandHash([]byte("onE"))
	expect := func(when string, got []string, want ...string) {
		t.Helper()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: pending %v, want %v", when, got, want)
		}
	}
	expect("both sent", pending(start()), hash, alteredHash)
	expect("one expired", pending(start().Add(time.Hour)), alteredHash)
	done := registry.ReceiptRecord{Device: id, Envelope: hash, Outcome: "done", Text: "pong", Received: start(), Receipt: json.RawMessage(`{"a":1}`)}
	must(t, s.PutReceipt(ctx, done))
	expect("one answered", pending(start()), alteredHash)
	must(t, s.AddCommand(ctx, good)) // an operator's replay
	must(t, s.PutReceipt(ctx, done)) // the first answer, once more
	expect("replayed", pending(start()), hash, alteredHash)
	refused := registry.ReceiptRecord{Device: id, Envelope: hash, Outcome: "refused", Rule: "replay", Received: start(), Receipt: json.RawMessage(`{"a":2}`)}
	must(t, s.PutReceipt(ctx, refused))
	must(t, s.PutReceipt(ctx, registry.ReceiptRecord{Device: id, Envelope: "unknown", Outcome: "refused", Received: start(), Receipt: json.RawMessage(`{}`)}))
	expect("replay refused", pending(start()), alteredHash)
	cs, err := s.Commands(ctx, id, 0)
	must(t, err)
	if len(cs) != 2 || cs[0].Hash != alteredHash || !cs[0].Pending || len(cs[0].Receipts) != 0 {
		t.Fatalf("commands %+v", cs)
	}
	if want := []registry.ReceiptRecord{done, refused}; !reflect.DeepEqual(cs[1].Receipts, want) || !reflect.DeepEqual(cs[1].Signers, good.Signers) {
		t.Errorf("command %+v, want receipts %+v", cs[1], want)
	}
}

func timeline(t *testing.T, s *registry.Store) {
	ctx := t.Context()
	for n := range 10 {
		must(t, s.AddEvent(ctx, registry.Event{Device: deviceID(n % 2), At: start(), Kind: "k", Severity: registry.Info, Text: fmt.Sprint(n)}))
	}
	for device, want := range map[string]string{"": "9876543210", deviceID(1): "97531", "gw-none": ""} {
		var got string
		for before := int64(0); ; {
			events, err := s.Events(ctx, device, before, 3)
			must(t, err)
			if len(events) == 0 {
				break
			}
			for _, e := range events {
				got += e.Text
			}
			before = events[len(events)-1].ID
		}
		if got != want {
			t.Errorf("timeline of %q: %s, want %s", device, got, want)
		}
	}
}

func trim(t *testing.T, s *registry.Store) {
	ctx := t.Context()
	id := enroll(t, s, 1)
	for seq := uint64(1); seq <= 10; seq++ {
		_, _, err := s.Accept(ctx, message(id, seq-1, seq))
		must(t, err)
	}
	must(t, s.PutNonce(ctx, id, []byte("n"), start()))
	must(t, s.PutTicket(ctx, ticketOf(id, "t")))
	must(t, s.Trim(ctx, 3, start().Add(time.Minute)))
	if got := fmt.Sprint(stored(t, s, id)); got != "[8 9 10]" {
		t.Errorf("kept %s", got)
	}
	if accepted, upTo, err := s.Accept(ctx, message(id, 1, 2)); accepted || upTo != 10 || err != nil {
		t.Errorf("a trimmed message was taken in again: %v %d %v", accepted, upTo, err)
	}
	if _, err := s.Ticket(ctx, "t", start()); err != nil {
		t.Errorf("an open ticket went: %v", err)
	}
	if err := s.PutNonce(ctx, id, []byte("n"), start()); err != nil {
		t.Errorf("an expired nonce stayed: %v", err)
	}
}

func subscribe(t *testing.T, s *registry.Store) {
	id := enroll(t, s, 1)
	changes, cancel := s.Subscribe()
	_, cancelSlow := s.Subscribe() // never reads
	defer cancelSlow()
	must(t, s.SetGrade(t.Context(), id, "trusted", start()))
	if got := <-changes; got != id {
		t.Errorf("change of %q, want %q", got, id)
	}
	for n := range 200 {
		must(t, s.AddEvent(t.Context(), registry.Event{Device: deviceID(n), At: start(), Severity: registry.Info}))
	}
	var all, last bool
	for len(changes) > 0 {
		got := <-changes
		all = all || got == ""
		last = got == deviceID(199) || (got == "" && len(changes) == 0)
	}
	if !all || !last {
		t.Errorf("a reader that fell behind was told of everything: %v, of the last: %v", all, last)
	}
	cancel()
	cancel()
	if _, open := <-changes; open {
		t.Error("the channel of an ended subscription is open")
	}
	must(t, s.SetGrade(t.Context(), id, "trusted", start()))
}
