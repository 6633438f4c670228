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
	maxNotes    = 10_000      // of one kind that are remembered
)

// notes remembers what was noted lately. Safe for concurrent use.
type notes struct {
	span time.Duration
	mu   sync.Mutex
	last map[string]time.Time
}

// fresh reports whether this was noted last longer than a span ago, and notes it.
func (n *notes) fresh(what string, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if last, ok := n.last[what]; ok && now.Sub(last).Abs() < n.span {
		return false
	}
	if n.last == nil || len(n.last) >= maxNotes {
		n.last = make(map[string]time.Time)
	}
	n.last[what] = now
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
