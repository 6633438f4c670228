package device

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
)

// A device's refusals by one rule make one entry of the audit in each span: else
// whoever can send garbage in its name could fill the disk. The log has them all.
const (
	refusalSpan = time.Minute
	maxRefusals = 10_000 // pairs of device and rule remembered
)

// subject is the device that a request is about, as far as the request got.
type subject struct{ id string }

type subjectKey struct{}

// isAbout notes the device that a request of this context is about.
func isAbout(ctx context.Context, id string) {
	if s, ok := ctx.Value(subjectKey{}).(*subject); ok {
		s.id = id
	}
}

// refusals remembers what was audited lately. Safe for concurrent use.
type refusals struct {
	mu   sync.Mutex
	last map[[2]string]time.Time
}

// fresh reports whether the last refusal of id by rule lies long enough back.
func (r *refusals) fresh(id, rule string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := [2]string{id, rule}
	if last, ok := r.last[key]; ok && now.Sub(last).Abs() < refusalSpan {
		return false
	}
	if r.last == nil || len(r.last) >= maxRefusals {
		r.last = make(map[[2]string]time.Time)
	}
	r.last[key] = now
	return true
}

// audit records that a known device was refused something. What was issued is in
// the journal of certificates, which is never trimmed.
func (a *api) audit(ctx context.Context, id string, declined *refusal) {
	if id == "" || declined.Rule == "" || !a.refusals.fresh(id, declined.Rule, a.Now()) {
		return
	}
	ctx = context.WithoutCancel(ctx) // who hangs up is on record too
	_, err := a.Registry.Device(ctx, id)
	if err == nil {
		err = a.Registry.AddAudit(ctx, registry.AuditEntry{
			At: a.Now(), By: registry.Fleet, Action: "refuse." + declined.Rule, Device: id, Text: declined.Title,
		})
	}
	if err != nil && !errors.Is(err, registry.ErrNotFound) {
		a.Log.Error("write audit", "device", id, "error", err)
	}
}
