package registrytest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
)

func message(device string, prev, seq uint64) registry.Message {
	return registry.Message{
		Device: device, Stream: "s", Seq: seq, Prev: prev, Kind: "linktest", Time: start(), Received: start().Add(time.Duration(seq) * time.Second),
		Body: json.RawMessage(fmt.Sprint(seq)),
	}
}

func stored(t *testing.T, s *registry.Store, device string) []uint64 {
	t.Helper()
	ms, err := s.Messages(t.Context(), device, "linktest", registry.MaxMessages)
	must(t, err)
	var seqs []uint64
	for _, m := range slices.Backward(ms) {
		seqs = append(seqs, m.Seq)
		if string(m.Body) != fmt.Sprint(m.Seq) {
			t.Errorf("message %d has body %s", m.Seq, m.Body)
		}
	}
	return seqs
}

// ingestExactlyOnce is a device that sends what is not acknowledged again and
// again over a way that loses, repeats and reorders.
func ingestExactlyOnce(t *testing.T, s *registry.Store) {
	const seed, total = 7, 200
	random := rand.New(rand.NewPCG(seed, seed))
	id := enroll(t, s, 1)
	for acked := uint64(0); acked < total; {
		var batch []registry.Message
		for seq := acked + 1; seq <= min(acked+20, total); seq++ {
			for range random.IntN(3) { // lost, once, twice
				batch = append(batch, message(id, seq-1, seq))
			}
		}
		if random.IntN(2) == 0 {
			random.Shuffle(len(batch), func(i, j int) { batch[i], batch[j] = batch[j], batch[i] })
		}
		answers, err := s.AcceptAll(t.Context(), batch)
		must(t, err)
		for _, a := range answers {
			if a.Err != nil || a.UpTo < acked {
				t.Fatalf("answer %+v after %d", a, acked)
			}
			acked = a.UpTo
		}
	}
	var want []uint64
	for seq := uint64(1); seq <= total; seq++ {
		want = append(want, seq)
	}
	if got := stored(t, s, id); !slices.Equal(got, want) {
		t.Errorf("stored %v (seed %d)", got, seed)
	}
	d, err := s.Device(t.Context(), id)
	must(t, err)
	if !d.LastSeen.Equal(start().Add(total * time.Second)) {
		t.Errorf("last seen %v", d.LastSeen)
	}
}

func ingestGaps(t *testing.T, s *registry.Store) {
	id := enroll(t, s, 1)
	for _, c := range []struct {
		prev, seq uint64
		accepted  bool
		upTo      uint64
	}{
		{1, 2, false, 0},   // 1 is still on its way
		{0, 1, true, 1},    //
		{0, 1, false, 1},   // again
		{1, 9, true, 9},    // the full outbox dropped 2 to 8
		{1, 2, false, 9},   // too late
		{8, 10, true, 10},  // the one before is below what was taken in
		{10, 12, true, 12}, //
		{1<<63 - 1, 1 << 63, false, 0},
	} {
		accepted, upTo, err := s.Accept(t.Context(), message(id, c.prev, c.seq))
		if accepted != c.accepted || upTo != c.upTo || (err != nil) != (c.seq == 1<<63) {
			t.Errorf("%d after %d: accepted %v up to %d, %v", c.seq, c.prev, accepted, upTo, err)
		}
	}
	if got, want := stored(t, s, id), []uint64{1, 9, 10, 12}; !slices.Equal(got, want) {
		t.Errorf("stored %v, want %v", got, want)
	}
	n, err := s.CountMessages(t.Context(), id, "linktest")
	if err != nil || n != 4 {
		t.Errorf("count %d, %v", n, err)
	}
}

func ingestEffects(t *testing.T, s *registry.Store) {
	ctx := t.Context()
	id := enroll(t, s, 1)
	must(t, s.AddCommand(ctx, registry.CommandRecord{Hash: "h", Device: id, Envelope: []byte("{}"), Verb: "ping", Created: start()}))
	m := message(id, 0, 1)
	m.Timeline = []registry.Event{{Device: deviceID(9), At: start(), Kind: "audit", Severity: registry.Warning, Text: "a refusal"}}
	m.Receipt = &registry.ReceiptRecord{Envelope: "h", Outcome: "done", Received: start(), Receipt: json.RawMessage(`{}`)}
	for range 3 {
		_, _, err := s.Accept(ctx, m)
		must(t, err)
	}
	events, err := s.Events(ctx, id, 0, 0)
	must(t, err)
	if len(events) != 1 || events[0].Text != "a refusal" {
		t.Errorf("timeline %+v", events)
	}
	cs, err := s.Commands(ctx, id, 0)
	must(t, err)
	if len(cs) != 1 || cs[0].Pending || len(cs[0].Receipts) != 1 || cs[0].Receipts[0].Outcome != "done" {
		t.Errorf("commands %+v", cs)
	}
}

func ingestPoison(t *testing.T, s *registry.Store) {
	id := enroll(t, s, 1)
	nameless, empty := message(id, 0, 1), message(id, 0, 1)
	nameless.Stream, empty.Body = "", nil
	as, err := s.AcceptAll(t.Context(), []registry.Message{message(deviceID(9), 0, 1), message(id, 5, 5), nameless, empty, message(id, 0, 1)})
	must(t, err)
	for i, a := range as {
		if (a.Err == nil) != (i == 4) || a.Accepted != (i == 4) {
			t.Errorf("message %d: %+v", i, a)
		}
	}
	if !isNotFound(as[0].Err) {
		t.Errorf("unknown device: %v", as[0].Err)
	}
	for n := range registry.MaxStreams + 10 {
		m := message(id, 0, 1)
		m.Stream, m.Received = fmt.Sprint("new", n), start().Add(time.Duration(n)*time.Minute)
		if accepted, _, err := s.Accept(t.Context(), m); !accepted || err != nil {
			t.Fatalf("stream %d: %v, %v", n, accepted, err)
		}
	}
}
