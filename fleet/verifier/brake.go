package verifier

import (
	"context"
	"fmt"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const (
	brakeSpan  = time.Hour // falls are counted over it
	leastFalls = 4         // fewer never stop the gate, whatever share they are
)

// brake decides whether the gate stops at short life for a device that is not
// trusted: where a large share of its model fell lately, that is more likely a
// policy, a release or a firmware update than an attack on each. It returns a line for the
// verdict, "" where the gate acts as ever.
func (v *Verifier) brake(ctx context.Context, d registry.Device, now time.Time) (string, error) {
	if v.Brake == 0 {
		return "", nil
	}
	fell, of, err := v.Registry.Falls(ctx, d.Model, now.Add(-brakeSpan), now)
	if err != nil {
		return "", fmt.Errorf("count falls: %w", err)
	}
	if d.Grade != string(attest.Untrusted) {
		fell++ // this one is not stored yet
	}
	if fell < leastFalls || fell*100 <= of*v.Brake {
		return "", nil
	}
	text := fmt.Sprintf("%d of %d gateways of the model %s fell within an hour: the gate stops at short certificates until it was quiet for as long", fell, of, d.Model)
	if v.brakes.fresh(d.Model, now) {
		if err := v.Registry.AddEvent(ctx, registry.Event{At: now, Kind: "gate.brake", Severity: registry.Alarm, Text: text}); err != nil {
			v.Log.Error("write timeline", "error", err)
		}
	}
	return "noted: " + text, nil
}

// GateNow is GateFor at an issue, which goes by the last verdict: where the brake held
// the gate then, it holds.
func GateNow(last registry.Verdict, state string) wire.Gate {
	gate := GateFor(attest.Grade(last.Grade), state)
	if gate == wire.GateQuarantine && state == registry.Active && last.Gate == string(wire.GateShort) {
		return wire.GateShort
	}
	return gate
}
