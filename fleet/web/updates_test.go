package web

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/bound"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// says takes in what a device says about an update, at time at.
func (s seeder) says(device string, seq uint64, at time.Time, u wire.Update) {
	s.Helper()
	u.Version = 1
	_, _, err := s.Accept(s.ctx, registry.Message{
		Device: device, Stream: "updates", Seq: seq, Prev: seq - 1, Kind: string(wire.KindUpdate), Received: at, Body: json.RawMessage("{}"), Update: &u,
	})
	s.ok(err)
}

// updates are those of the seeded fleet.
func (s seeder) updates(ids map[string]string) {
	s.Helper()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	edge := func(id, from, to string, began time.Duration) wire.Update {
		return wire.Update{ID: id, State: "installing", Product: "edge", Channel: "stable", From: from, Release: to, Began: ago(began)}
	}
	end := func(u wire.Update, took time.Duration, outcome, rule, text string) wire.Update {
		u.State, u.Outcome, u.Rule, u.Text, u.Ended = "reporting", outcome, rule, text, u.Began.Add(took)
		u.Chunks, u.Fetched, u.Attempts = 37, 2_412_000, 1
		return u
	}
	const day = 24 * time.Hour
	weir := ids["weir-1"]
	good := edge("11", "1.4.1", "1.4.2", 9*day)
	s.says(weir, 1, ago(9*day), good)
	s.says(weir, 2, ago(9*day), end(good, 95*time.Second, wire.UpdateInstalled, "", ""))
	s.says(weir, 3, ago(3*day), wire.Update{ID: "12", State: "checking", Outcome: wire.UpdateRefused, Rule: "tuf/signatures", Text: "timestamp: 0 of 1 signatures hold", Began: ago(3 * day), Ended: ago(3 * day)})
	back := edge("13", "1.4.2", "1.5.0", 2*time.Hour)
	s.says(weir, 4, ago(2*time.Hour), back)
	s.says(weir, 5, ago(time.Hour), end(back, 12*time.Minute, wire.UpdateRolledBack, "verdict", "After 60 seconds on trial the verdict is untrusted, it was trusted before."))
	mast := ids["mast-hill"]
	s.says(mast, 1, ago(5*day), end(edge("21", "1.4.1", "1.4.2", 5*day), time.Hour, wire.UpdateFailed, "budget", "The update would fetch more than 1 GiB."))
	pending := end(edge("22", "1.4.1", "1.4.2", 4*day), time.Minute, wire.UpdateInstalled, "", "")
	pending.Pending = true
	s.says(mast, 2, ago(4*day), pending)
	trying := edge("23", "1.4.2", "1.5.0", 3*time.Minute)
	trying.Chunks, trying.Fetched, trying.Attempts = 1, 900, 2
	s.says(mast, 3, ago(3*time.Minute), trying)
	trying.State = "confirming"
	s.says(mast, 4, ago(20*time.Second), trying)
}

func TestUpdatesOfADeviceAreToldFromFirstStateToOutcome(t *testing.T) {
	store := openRegistry(t)
	ids := seed(t, store)
	h := newSite(t, store)
	wants(t, text(get(t, h, "/devices/"+ids["weir-1"])),
		"Running release edge 1.4.2 attested 46 s ago Slot a as the gateway reports it",
		"1.4.2 → 1.5.0 Rolled back After 60 seconds on trial the verdict is untrusted, it was trusted before. verdict · ended 08:54:07 after 12 min · 37 chunks, 2.3 MiB fetched · 1 attempt · not confirmed by a quote yet 08:42:07",
		"The repository Refused timestamp: 0 of 1 signatures hold tuf/signatures · ended 11 Mar 10:42 · not confirmed by a quote yet 11 Mar 10:42",
		"1.4.1 → 1.4.2 Installed ended 5 Mar 10:43 after 1 min 35 s · 37 chunks, 2.3 MiB fetched · 1 attempt · not confirmed by a quote yet 5 Mar 10:42")
	wants(t, text(get(t, h, "/devices/"+ids["mast-hill"])),
		"1.4.2 → 1.5.0 Under way: running it on trial last heard of 20 s ago · 1 chunk, 900 B fetched · 2 attempts 10:39:07",
		"1.4.1 → 1.4.2 Installed, verdict pending", "1.4.1 → 1.4.2 Failed The update would fetch more than 1 GiB. budget · ended")
	wants(t, text(get(t, h, "/devices/"+ids["pump-house-3"])), "Running release not known its boot matches no release whole, judged 12 s ago", "No update was reported yet.")
	wants(t, text(get(t, h, "/devices/"+ids["ferry-7"])), "Running release not known the gateway has not proven yet how it booted", "Slot not told")
	wants(t, text(get(t, h, "/")), "weir-1 "+ids["weir-1"]+" Trusted Active edge 1.4.2 agent 1.4.2 1.5.0 rolled back", "Active edge 1.4.2 agent 1.4.2 Updating to 1.5.0")
}

// TestWhatABrokerCouldHaveWrittenIsMarked until the TPM quoted it.
func TestWhatABrokerCouldHaveWrittenIsMarked(t *testing.T) {
	store := openRegistry(t)
	s := seeder{t, store, t.Context()}
	id := seed(t, store)["weir-1"]
	h := newSite(t, store)
	page := func() string { return text(get(t, h, "/devices/"+id)) }
	wants(t, page(), "Not confirmed by a quote yet. Reported")
	health, err := store.Health(t.Context(), id)
	s.ok(err)
	var report wire.Health
	s.ok(json.Unmarshal(health.Body, &report))
	verdict := func(at time.Time, posture, head string) {
		claims, err := json.Marshal(attest.Claims{Version: 1, Slot: "b", Posture: posture, Audit: head})
		s.ok(err)
		s.ok(s.AddVerdict(s.ctx, registry.Verdict{Device: id, At: at, Grade: "trusted", Gate: "full", Explanation: []string{"trusted: all"}, Claims: claims, Audit: head}))
	}
	name, said := bound.Outcome(wire.Update{Outcome: wire.UpdateRolledBack, Release: "1.5.0", From: "1.4.2", Rule: "verdict",
		Text: "After 60 seconds on trial the verdict is untrusted, it was trusted before."})
	for _, e := range []registry.Event{
		{Kind: "command.done", Text: "A forged line.", Prev: "1", Head: "x"}, {Kind: name, Text: said, Prev: "1", Head: "2"}, {Kind: "secret.sealed", Text: "A later line.", Prev: "2", Head: "3"},
	} {
		e.Device, e.At, e.Severity, e.Proof = id, now, registry.Info, registry.ProofClaimed
		s.ok(s.AddEvent(s.ctx, e))
	}
	wants(t, page(), "A later line. not confirmed by a quote yet", "A forged line. not confirmed by a quote yet")
	verdict(now, bound.Posture(report.Findings), "2")
	wants(t, page(), "Slot b as its last quote names it", "Confirmed by the TPM's last quote. Reported", "1 attempt · confirmed by a quote", "A later line. not confirmed by a quote yet",
		"A forged line. not in the audit log that the TPM quoted")
	verdict(now.Add(time.Hour), bound.Posture(nil), "2")
	wants(t, page(), "The TPM's last quote names another report: this one was forged or overtaken, and counts for nothing.")
}

func TestEveryStateAndOutcomeOfAnUpdateHasAWord(t *testing.T) {
	for want, u := range map[string]wire.Update{
		"Under way: fetching it into the spare slot": {State: "installing"}, "Under way: starting it on trial": {State: "trying"},
		"Under way: running it on trial": {State: "confirming"}, "Under way: going back to the release before": {State: "rolling-back"},
		"Under way: dreaming": {State: "dreaming"}, "Installed": {Outcome: wire.UpdateInstalled}, "Installed, verdict pending": {Outcome: wire.UpdateInstalled, Pending: true},
		"Failed": {Outcome: wire.UpdateFailed}, "Refused": {Outcome: wire.UpdateRefused}, "Rolled back": {Outcome: wire.UpdateRolledBack}, "Outcome unknown": {Outcome: "eaten"},
	} {
		if m := updateMark(u); m.Word != want || m.Icon == "" || m.Tone == "" {
			t.Errorf("%+v: %+v, want %q", u, m, want)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1<<20 - 1: "1.0 MiB", 5 << 30: "5.0 GiB", 1<<63 - 1: "8.0 EiB"} {
		if got := size(n); got != want {
			t.Errorf("%d bytes are %q, want %q", n, got, want)
		}
	}
}

// What a device says of its updates is text, and as much of it as fits a page.
func TestHostileUpdateIsNeitherMarkupNorEndless(t *testing.T) {
	const evil = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>`{{.}}\u202Egnp\x00"
	store := openRegistry(t)
	s := seeder{t, store, t.Context()}
	id := s.enroll(gateway{host: "h", model: "m", software: "1", state: registry.Active, grade: "trusted", certLife: 1})
	s.ok(s.AddVerdict(s.ctx, registry.Verdict{Device: id, At: now, Grade: "trusted", Release: evil}))
	long := strings.Repeat(evil, 500)
	for n := range uint64(3 * updateRows) {
		s.says(id, n+1, now, wire.Update{ID: fmt.Sprint(n, evil), State: long, Rule: long, Text: long, Product: long, Release: long, From: long,
			Chunks: 1 << 62, Fetched: 1<<63 - 1, Attempts: 1 << 62, Began: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), Ended: time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC)})
	}
	raw := regexp.MustCompile(`(?i)<img|<script>|\{\{|[\x00-\x08\x0b-\x1f]|\x{202e}`)
	h := newSite(t, store)
	for _, target := range []string{"/", "/devices/" + id} {
		page := get(t, h, target)
		if m := raw.FindString(strings.ReplaceAll(page, "{{.}}", "")); m != "" {
			t.Errorf("%s holds %q", target, m)
		}
		if len(page) > 200<<10 {
			t.Errorf("%s has %d bytes", target, len(page))
		}
	}
	page := get(t, h, "/devices/"+id)
	if n := strings.Count(page, `id="u-`); n != updateRows {
		t.Errorf("%d updates are shown, want %d", n, updateRows)
	}
	if n := strings.Count(page, "&lt;script&gt;"); n < 4*updateRows {
		t.Errorf("only %d of the hostile values are on the page: the test has lost its subject", n)
	}
	wants(t, text(page), "Older ones are left out.")
}
