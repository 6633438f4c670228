package verifier_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/fleet/verifier"
	"github.com/gatewarden/gatewarden/internal/bound"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// report takes in a health report by way of a broker and returns its posture.
func (c *court) report(seq uint64, summary string) string {
	c.Helper()
	return c.reportAs(seq, "ok", summary)
}

func (c *court) reportAs(seq uint64, status, summary string) string {
	c.Helper()
	h := wire.Health{Version: 1, Grade: status, Findings: []wire.Finding{{Check: "disk", Status: status, Summary: summary}}}
	h.Posture = bound.Posture(h.Findings)
	body, err := json.Marshal(h)
	c.must(err)
	accepted, _, err := c.store.Accept(c.Context(), registry.Message{
		Device: deviceID, Stream: "s", Seq: seq, Prev: seq - 1, Kind: string(wire.KindHealth), Received: c.now(), Body: body,
	})
	c.must(err)
	if !accepted {
		c.Fatalf("report %d was not taken in", seq)
	}
	return h.Posture
}

func (c *court) standing() verifier.Standing {
	c.Helper()
	last, err := c.store.LastVerdict(c.Context(), deviceID)
	c.must(err)
	health, err := c.store.Health(c.Context(), deviceID)
	c.must(err)
	return verifier.StandingOf(health, last)
}

// TestForgedHealthReportCountsForNothing: a broker can write one, the TPM does not
// quote it.
func TestForgedHealthReportCountsForNothing(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	full := c.certify(deviceID)
	c.judge(full)
	c.freeze()
	pass := func(d time.Duration) { c.ahead.Add(int64(d)) }
	said := func(want string) {
		t.Helper()
		v := c.judge(full)
		if v.Grade != "trusted" || v.Gate != wire.GateFull {
			t.Errorf("health reports moved the grade: %q", v.Explanation)
		}
		if !strings.Contains(strings.Join(v.Explanation, "\n"), want) {
			t.Errorf("explanation %q, want %q", v.Explanation, want)
		}
	}
	c.posture = c.report(1, "37 % free")
	said("held: health report is the one that the quote names")
	if s := c.standing(); s != verifier.Confirmed {
		t.Errorf("genuine report: %s", s)
	}
	c.report(2, "99 % free")
	said("held: health report is newer than the challenge")
	if s := c.standing(); s != verifier.Unconfirmed {
		t.Errorf("forged report, before the next challenge: %s", s)
	}
	for range 3 {
		pass(5 * time.Minute)
		said("noted: health report: the quote names another")
		if s := c.standing(); s != verifier.Doubtful {
			t.Errorf("forged report: %s", s)
		}
	}
	events, err := c.store.Events(t.Context(), deviceID, 0, 20)
	c.must(err)
	told := 0
	for _, e := range events {
		if e.Kind == "health.doubtful" {
			told++
		}
	}
	if told != 1 {
		t.Errorf("operators were told %d times", told)
	}
	c.posture = c.report(3, "36 % free")
	said("held: health report is the one")
}

// The gate follows the device's health where the owner says so, by the word that the
// device itself quotes, and by nobody else's.
func TestPolicyDecidesWhatACriticalHealthReportCosts(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	full := c.certify(deviceID)
	c.judge(full)
	c.freeze()
	judged := func(grade string, gate wire.Gate, line string) {
		t.Helper()
		v := c.judge(full)
		if v.Grade != grade || v.Gate != gate || !strings.Contains(strings.Join(v.Explanation, "\n"), line) {
			t.Errorf("%s, %s: %q; want %s, %s, %q", v.Grade, v.Gate, v.Explanation, grade, gate, line)
		}
	}
	c.posture = c.reportAs(1, "critical", "2 % free")
	judged("trusted", wire.GateFull, "noted: health: critical in the report that the quote names: disk, 2 % free")
	c.rules = map[string]attest.Severity{"health-grade": attest.Degrade}
	c.verifier = c.newVerifier()
	judged("degraded", wire.GateShort, "health: critical in the report that the quote names: disk, 2 % free")
	c.posture = c.reportAs(2, "ok", "37 % free")
	judged("trusted", wire.GateFull, "held: health: nothing is critical")
	c.reportAs(3, "critical", "what a broker made up")
	judged("trusted", wire.GateFull, "held: health: there is no report that the quote names")
}

// What an agent claims that has not reported since it started is no evidence
// against the report before.
func TestQuoteWithoutPostureDoubtsNoReport(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	full := c.certify(deviceID)
	c.report(1, "37 % free")
	c.ahead.Add(int64(30 * time.Minute))
	c.judge(full)
	if s := c.standing(); s != verifier.Unconfirmed {
		t.Errorf("report: %s", s)
	}
}
