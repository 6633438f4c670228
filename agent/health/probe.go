package health

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/gatewarden/gatewarden/internal/wire"
)

// probe runs one check so that nothing it does harms the others.
type probe struct {
	check   Check
	timeout time.Duration
	log     *slog.Logger
	pending chan outcome // of a run that outlived its timeout; nil if there is none
}

type outcome struct{ status, summary string }

// run returns the check's outcome, or unknown when it takes too long. A system
// call that hangs can't be ended from here, so at most one run of a check is
// under way: a dead disk costs one goroutine, not one every few minutes.
func (p *probe) run(ctx context.Context) (status, summary string) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	if p.pending == nil {
		p.pending = make(chan outcome, 1)
		go func(done chan<- outcome) { done <- p.call(ctx) }(p.pending)
	}
	select {
	case o := <-p.pending:
		p.pending = nil
		return valid(o)
	case <-ctx.Done():
		return Unknown, fmt.Sprintf("the check did not finish within %s", p.timeout)
	}
}

// call turns a panic into a finding: a bug in one check must not end the agent.
func (p *probe) call(ctx context.Context) (o outcome) {
	defer func() {
		if cause := recover(); cause != nil {
			p.log.Error("health check panicked", "check", p.check.Name, "cause", cause)
			o = outcome{Unknown, "the check failed inside; this is a bug of the agent"}
		}
	}()
	status, summary := p.check.Run(ctx)
	return outcome{status, summary}
}

// valid refuses what is no status and cuts what the fleet would refuse.
func valid(o outcome) (status, summary string) {
	switch o.status {
	case OK, Unknown, Warning, Critical:
	default:
		return Unknown, fmt.Sprintf("the check answered %q, which is no status", o.status)
	}
	if len(o.summary) > wire.MaxText {
		o.summary = o.summary[:wire.MaxText]
	}
	return o.status, o.summary
}
