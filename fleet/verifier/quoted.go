package verifier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/bound"
	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// Standing is what the last quote says of the newest health report, which came by
// way of a broker.
type Standing string

// Standings of a health report.
const (
	Confirmed   Standing = "confirmed"   // the quote names it
	Unconfirmed Standing = "unconfirmed" // no quote was made since it came: the next one decides
	Doubtful    Standing = "doubtful"    // the quote names another: it counts for nothing
)

// StandingOf compares a stored health message with the last verdict on its device.
func StandingOf(health registry.Message, last registry.Verdict) Standing {
	var claims attest.Claims
	if json.Unmarshal(last.Claims, &claims) != nil || claims.Posture == "" {
		return Unconfirmed
	}
	switch r := reportOf(health, last.At); {
	case r == nil:
		return Unconfirmed
	case r.Posture == claims.Posture:
		return Confirmed
	case !r.Settled:
		return Unconfirmed
	}
	return Doubtful
}

// Rules of attest whose words are kept beside the verdict.
const (
	healthRule   = "health-report"
	firmwareRule = "firmware"
	clockRule    = "clock"
)

// doubt counts quotes in a row that named another health report than the newest,
// and tells operators at the second: by then one that was under way has arrived.
func (v *Verifier) doubt(ctx context.Context, device string, m *memory, r *attest.Result, now time.Time) {
	m.Doubts++
	text := ""
	for _, rule := range r.Rules() {
		if rule.Rule == healthRule && !rule.OK {
			text = rule.Text
		}
	}
	if text == "" {
		m.Doubts = 0
	}
	if m.Doubts != 2 {
		return
	}
	if err := v.Registry.AddEvent(ctx, registry.Event{Device: device, At: now, Kind: "health.doubtful", Severity: registry.Warning, Text: text}); err != nil {
		v.Log.Error("write timeline", "device", device, "error", err)
	}
}

// reportOf is a stored health message as a quote judged at a time names it; nil if
// it can't be read.
func reportOf(health registry.Message, judged time.Time) *attest.Report {
	var h wire.Health
	if strictjson.Inform(health.Body, &h) != nil {
		return nil
	}
	// A challenge lives for NonceLife: what came earlier came before it was made.
	r := &attest.Report{Posture: bound.Posture(h.Findings), Settled: judged.Sub(health.Received) > NonceLife}
	if n := slices.IndexFunc(h.Findings, func(f wire.Finding) bool { return f.Status == "critical" }); n >= 0 {
		r.Critical = h.Findings[n].Check + ", " + h.Findings[n].Summary
	}
	return r
}

// report is the newest of the device.
func (v *Verifier) report(ctx context.Context, device string, now time.Time) (*attest.Report, error) {
	health, err := v.Registry.Health(ctx, device)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read health report: %w", err)
	}
	return reportOf(health, now), nil
}
