package verifier

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/registry"
)

const (
	refusalSpan = time.Minute // a device's refusals make one line of the timeline in each
	maxRefusals = 10_000      // devices remembered
)

// refusals remembers whose evidence was refused lately. Safe for concurrent use.
type refusals struct {
	mu   sync.Mutex
	last map[string]time.Time
}

// fresh reports whether the last refusal of device was noted long enough ago.
func (r *refusals) fresh(device string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last, ok := r.last[device]; ok && now.Sub(last).Abs() < refusalSpan {
		return false
	}
	if r.last == nil || len(r.last) >= maxRefusals {
		r.last = make(map[string]time.Time)
	}
	r.last[device] = now
	return true
}

// note tells operators of evidence that proves nothing. It changes no grade:
// else whoever can send garbage in a device's name could shut it out.
func (v *Verifier) note(ctx context.Context, device string, err error, now time.Time) {
	var refused *attest.Refusal
	if !errors.As(err, &refused) || !v.refusals.fresh(device, now) {
		return
	}
	if err := v.Registry.AddEvent(ctx, registry.Event{
		Device: device, At: now, Kind: "evidence.refused", Severity: registry.Warning, Text: refused.Error(),
	}); err != nil {
		v.Log.Error("write timeline", "device", device, "error", err)
	}
}
