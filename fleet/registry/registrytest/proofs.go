package registrytest

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/bound"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// logged takes in an event of the device's audit log, as a message brings it.
func (d *teller) logged(kind, text, prev, head string) {
	d.Helper()
	d.seq++
	at := start().Add(time.Duration(d.seq) * time.Second)
	accepted, _, err := d.store.Accept(d.Context(), registry.Message{
		Device: d.device, Stream: "s", Seq: d.seq, Prev: d.seq - 1, Kind: string(wire.KindEvent), Received: at, Body: json.RawMessage(`{}`),
		Timeline: []registry.Event{{At: at, Kind: kind, Severity: registry.Info, Text: text, Prev: prev, Head: head, Proof: registry.ProofClaimed}},
	})
	must(d.T, err)
	if !accepted {
		d.Fatalf("message %d was not taken in", d.seq)
	}
}

// quoted takes in a verdict on a quote that names an audit head.
func (d *teller) quoted(head string) {
	d.Helper()
	must(d.T, d.store.AddVerdict(d.Context(), registry.Verdict{Device: d.device, At: start(), Grade: "trusted", Audit: head}))
}

// proofs lists what is proven of the device's events, oldest first, as "kind proof".
func (d *teller) proofs() string {
	d.Helper()
	events, err := d.store.Events(d.Context(), d.device, 0, 0)
	must(d.T, err)
	var all []string
	for i := len(events) - 1; i >= 0; i-- {
		all = append(all, strings.TrimSpace(events[i].Kind+" "+events[i].Proof))
	}
	return strings.Join(all, ", ")
}

func (d *teller) want(what, proofs string) {
	d.Helper()
	if got := d.proofs(); got != proofs {
		d.Errorf("%s: %s, want %s", what, got, proofs)
	}
}

func eventsProven(t *testing.T, s *registry.Store) {
	d := &teller{T: t, store: s, device: enroll(t, s, 1)}
	other := &teller{T: t, store: s, device: enroll(t, s, 2)}
	d.logged("a", "", "0", "1")
	d.logged("b", "", "1", "2")
	d.logged("c", "", "2", "3")
	other.logged("a", "", "0", "1")
	d.want("before a quote", "a claimed, b claimed, c claimed")
	d.quoted("2")
	d.want("the second is quoted", "a quoted, b quoted, c claimed")
	other.want("another device's log", "a claimed")
	d.quoted("5")
	d.logged("d", "", "3", "4")
	d.want("a head under way", "a quoted, b quoted, c claimed, d claimed")
	d.logged("e", "", "4", "5")
	d.want("it arrived", "a quoted, b quoted, c quoted, d quoted, e quoted")
	d.logged("forged", "", "5", "x")
	d.logged("no entry", "", "", "")
	d.logged("f", "", "5", "6")
	d.quoted("6")
	d.want("a fork", "a quoted, b quoted, c quoted, d quoted, e quoted, forged stray, no entry claimed, f quoted, audit.stray")
	d.quoted("6")
	d.want("told once", "a quoted, b quoted, c quoted, d quoted, e quoted, forged stray, no entry claimed, f quoted, audit.stray")
	d.quoted("x")
	if got := d.proofs(); !strings.Contains(got, "forged quoted") {
		t.Errorf("a stray that a quote names after all: %s", got)
	}
}

func outcomeProven(t *testing.T, s *registry.Store) {
	d := &teller{T: t, store: s, device: enroll(t, s, 1)}
	u := wire.Update{ID: "a", State: "trying", Product: "edge", Release: "2", From: "1"}
	proof := func() (string, string) {
		t.Helper()
		us, err := s.Updates(t.Context(), d.device, 1)
		must(t, err)
		return us[0].Outcome, us[0].Proof
	}
	d.says(u)
	if _, p := proof(); p != registry.ProofNone {
		t.Errorf("under way: %q", p)
	}
	u.Outcome, u.Text = wire.UpdateRolledBack, "the link did not come up"
	d.says(u)
	name, text := bound.Outcome(u)
	d.logged(name, text, "0", "1")
	if o, p := proof(); o != u.Outcome || p != registry.ProofClaimed {
		t.Errorf("before the quote: %s %q", o, p)
	}
	d.quoted("1")
	if _, p := proof(); p != registry.ProofQuoted {
		t.Errorf("quoted: %q", p)
	}
	forged := u
	forged.Outcome, forged.Text = wire.UpdateInstalled, ""
	d.says(forged)
	d.says(u)
	if o, p := proof(); o != u.Outcome || p != registry.ProofQuoted {
		t.Errorf("overwritten by %s %q", o, p)
	}
	if now, err := s.Device(t.Context(), d.device); err != nil || now.UpdateOutcome != u.Outcome {
		t.Errorf("device %+v, %v", now, err)
	}
	forged.ID = "b"
	d.says(forged)
	d.quoted("1")
	if o, p := proof(); o != forged.Outcome || p != registry.ProofClaimed {
		t.Errorf("an update that no audit entry tells of: %s %q", o, p)
	}
}
