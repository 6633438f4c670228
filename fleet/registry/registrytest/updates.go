package registrytest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// teller sends what one device says about its updates.
type teller struct {
	*testing.T
	store  *registry.Store
	device string
	seq    uint64
}

func (d *teller) says(u wire.Update) {
	d.Helper()
	d.seq++
	u.Version = 1
	accepted, _, err := d.store.Accept(d.Context(), registry.Message{
		Device: d.device, Stream: "s", Seq: d.seq, Prev: d.seq - 1, Kind: string(wire.KindUpdate),
		Received: start().Add(time.Duration(d.seq) * time.Second), Body: json.RawMessage(`{}`), Update: &u,
	})
	must(d.T, err)
	if !accepted {
		d.Fatalf("message %d was not taken in", d.seq)
	}
}

func updatesGrouped(t *testing.T, s *registry.Store) {
	d := &teller{T: t, store: s, device: enroll(t, s, 1)}
	other := &teller{T: t, store: s, device: enroll(t, s, 2)}
	first := wire.Update{
		Version: 1, ID: "a", State: "installing", Product: "edge", Channel: "stable", Release: "2.0.0", From: "1.0.0", Epoch: 1<<64 - 1,
		Chunks: 3, Fetched: 5 << 30, Attempts: 1, Began: start(),
	}
	d.says(first)
	other.says(first)
	first.State, first.Outcome, first.Rule, first.Text, first.Pending, first.Ended = "reporting", wire.UpdateInstalled, "r", "t", true, start().Add(time.Hour)
	second := wire.Update{Version: 1, ID: "b", State: "installing", Product: "edge", Release: "3.0.0", From: "2.0.0"}
	d.says(second)
	d.says(first)
	got, err := s.Updates(t.Context(), d.device, 0)
	must(t, err)
	at := func(n time.Duration) time.Time { return start().Add(n * time.Second) }
	want := []registry.UpdateRecord{
		{Update: second, Device: d.device, First: at(2), Last: at(2)},
		{Update: first, Device: d.device, First: at(1), Last: at(3), Proof: registry.ProofClaimed},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("updates\n%+v, want\n%+v", got, want)
	}
	if got, err := s.Updates(t.Context(), d.device, 1); err != nil || len(got) != 1 || got[0].ID != "b" {
		t.Errorf("the newest is %+v, %v", got, err)
	}
	device, err := s.Device(t.Context(), d.device)
	must(t, err)
	rows, err := s.Devices(t.Context(), registry.Filter{})
	must(t, err)
	for _, got := range []registry.Device{device, rows[0].Device} {
		if got.UpdateTo != "2.0.0" || got.UpdateOutcome != wire.UpdateInstalled {
			t.Errorf("the device spoke last of %q (%q)", got.UpdateTo, got.UpdateOutcome)
		}
	}
	d.says(wire.Update{ID: "c", State: "checking", Outcome: wire.UpdateRefused, Rule: "tuf/signatures"}) // of no release
	if device, err = s.Device(t.Context(), d.device); err != nil || device.UpdateTo != "2.0.0" {
		t.Errorf("what is about no release replaced the last update: %q, %v", device.UpdateTo, err)
	}
}

func updateJudged(t *testing.T, s *registry.Store) {
	d := &teller{T: t, store: s, device: enroll(t, s, 1)}
	kept := wire.Update{Version: 1, ID: "a", State: "reporting", Outcome: wire.UpdateInstalled, Pending: true, Product: "edge", Release: "2.0.0"}
	judged := func(after time.Duration, grade string) {
		t.Helper()
		must(t, s.AddVerdict(t.Context(), registry.Verdict{Device: d.device, At: start().Add(after), Grade: grade}))
	}
	waits := func(want bool, said ...string) {
		t.Helper()
		us, err := s.Updates(t.Context(), d.device, 0)
		must(t, err)
		events, err := s.Events(t.Context(), d.device, 0, 10)
		must(t, err)
		var got []string
		for _, e := range events {
			if e.Kind == "update.judged" {
				got = append(got, e.Severity+": "+e.Text)
			}
		}
		if us[0].Pending != want || !reflect.DeepEqual(got, said) {
			t.Errorf("it waits: %v, want %v; the timeline says %q, want %q", us[0].Pending, want, got, said)
		}
	}
	d.says(kept)
	judged(0, "trusted") // before it was kept
	waits(true)
	judged(time.Minute, "trusted")
	first := "info: edge 2.0.0 was kept while no verdict could be had. The first one since is trusted."
	waits(false, first)
	d.says(kept) // again
	judged(2*time.Minute, "untrusted")
	waits(false, first)
	kept.ID, kept.Release = "b", "3.0.0"
	d.says(kept)
	waits(true, first)
	judged(3*time.Minute, "untrusted")
	waits(false, "warning: edge 3.0.0 was kept while no verdict could be had. The first one since is untrusted.", first)
}

func updatesBounded(t *testing.T, s *registry.Store) {
	d := &teller{T: t, store: s, device: enroll(t, s, 1)}
	long := strings.Repeat("ä\x00\xff", 10_000)
	for n := range registry.MaxUpdates + 5 {
		d.says(wire.Update{ID: fmt.Sprint(n), State: long, Outcome: long, Rule: long, Text: long, Product: long, Channel: long, Release: long, From: long})
	}
	got, err := s.Updates(t.Context(), d.device, registry.MaxPage)
	must(t, err)
	if len(got) != registry.MaxUpdates || got[0].ID != fmt.Sprint(registry.MaxUpdates+4) {
		t.Fatalf("%d kept, the newest is %s", len(got), got[0].ID)
	}
	for _, text := range []string{got[0].State, got[0].Outcome, got[0].Rule, got[0].Product, got[0].Channel, got[0].Release, got[0].From} {
		if len(text) > 255 || strings.ContainsRune(text, 0) || strings.ToValidUTF8(text, "") != text {
			t.Errorf("stored %q", text)
		}
	}
}

func releasesCounted(t *testing.T, s *registry.Store) {
	update := func(device int, outcomes ...string) {
		d := &teller{T: t, store: s, device: enroll(t, s, device)}
		for n, outcome := range outcomes {
			d.says(wire.Update{ID: fmt.Sprint(n), State: "s", Outcome: outcome, Product: "edge", Release: "2.0.0"})
		}
	}
	update(1, wire.UpdateFailed, wire.UpdateFailed, wire.UpdateInstalled) // counts once, as what came last
	update(2, wire.UpdateRolledBack)
	update(3, wire.UpdateFailed)
	update(4, wire.UpdateRefused)
	update(5, wire.UpdateInstalled, "")
	update(6, "running") // an outcome that nobody knows
	update(7)
	for n, name := range map[int]string{1: "edge 2.0.0", 2: "edge 1.0.0", 5: "edge 2.0.0", 7: "edge 2.0.0"} {
		must(t, s.AddVerdict(t.Context(), registry.Verdict{Device: deviceID(n), At: start(), Grade: "trusted", Release: name}))
	}
	must(t, s.SetState(t.Context(), deviceID(7), registry.Revoked, "alice", "", start()))
	got, err := s.Releases(t.Context(), []string{"edge 2.0.0", "edge 1.0.0", "edge 9.0.0"})
	must(t, err)
	want := map[string]registry.ReleaseCount{
		"edge 2.0.0": {Running: 2, UnderWay: 1, Installed: 1, Failed: 1, Refused: 1, RolledBack: 1}, "edge 1.0.0": {Running: 1},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("counts %+v, want %+v", got, want)
	}
	must(t, s.AddVerdict(t.Context(), registry.Verdict{Device: deviceID(1), At: start(), Grade: "untrusted"}))
	if d, err := s.Device(t.Context(), deviceID(1)); err != nil || d.Running != "" {
		t.Errorf("runs %q after a verdict that proved no release, %v", d.Running, err)
	}
	if got, err := s.Releases(t.Context(), nil); err != nil || len(got) != 0 {
		t.Errorf("counts of nothing: %+v, %v", got, err)
	}
}
