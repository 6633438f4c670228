package agent

import (
	"context"
	"time"

	"github.com/gatewarden/gatewarden/internal/wire"
)

// Receive is a message from the broker.
func (a *Agent) Receive(ctx context.Context, kind wire.Kind, payload []byte) {
	a.handle(ctx, kind, payload)
}

// RunLink runs one task alone.
func (a *Agent) RunLink(ctx context.Context) error { return a.link.Run(ctx) }

// Unable counts the challenges in a row for which no evidence could be made.
func (a *Agent) Unable() int { return int(a.unable.Load()) }

// Anchor does now what is done each hour.
func (a *Agent) Anchor(ctx context.Context) error { return a.anchorNow(ctx) }

// Audit lists the names of the last events.
func (a *Agent) Audit(n int) []string {
	entries, err := a.audit.Tail(n)
	if err != nil {
		return []string{err.Error()}
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name)
	}
	return names
}

// LookForTrust looks for the owner's documents, beginning with mirror n.
func (a *Agent) LookForTrust(ctx context.Context, n int) error {
	return a.lookForTrust(beginAt(ctx, n))
}

// Trust is when the documents in force were issued.
func (a *Agent) Trust() (fleet, operators time.Time) {
	return a.fleet.Load().Issued, a.operators.Load().Issued
}

// Floor is the time below which none is believed.
func (a *Agent) Floor() time.Time { return a.clock.Floor() }
