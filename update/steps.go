package update

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/update/chunk/store"
	"github.com/gatewarden/gatewarden/update/release"
	"github.com/gatewarden/gatewarden/update/tuf"
)

// act does what a state stands for and records the next one. It returns how long
// to rest first. Interrupted anywhere, it may be called again.
type act func(context.Context) (rest time.Duration, err error)

func (e *Engine) table() map[State]act {
	return map[State]act{
		Idle:        e.idle,
		Checking:    e.look,
		Fetching:    e.fetch,
		Installing:  e.install,
		Installed:   e.note,
		Trying:      e.try,
		Confirming:  e.confirm,
		Committing:  e.commit,
		RollingBack: e.rollBack,
		Reporting:   e.hand,
	}
}

// Run works until ctx ends.
func (e *Engine) Run(ctx context.Context) error {
	for {
		rest := e.step(ctx)
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := e.sleep(ctx, rest); err != nil {
			return err
		}
	}
}

// step does one act and returns how long to rest.
func (e *Engine) step(ctx context.Context) time.Duration {
	state := e.state()
	rest, err := e.acts[state](ctx)
	if ctx.Err() != nil {
		return 0
	}
	if err == nil {
		e.settle(nil)
		if now := e.state(); now != Fetching && now != Installing { // these two take turns after a failure
			e.progressed()
		}
		return rest
	}
	n := e.settle(err)
	if err := e.giveUp(state, err, n); err != nil {
		e.log.Error("update can't be ended", "error", err)
	} else if e.state() != state {
		return 0
	}
	rest = backoff(e.cfg.Retry, e.cfg.MaxRest, n, e.cfg.Rand())
	e.log.Warn("update step did not work", "state", state, "error", err, "failures", n, "rest", rest)
	return rest
}

// settle notes how an act ended and returns how many failed in a row.
func (e *Engine) settle(err error) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fault = err
	if err != nil {
		e.failures++
	}
	return e.failures
}

// progressed says that something was achieved: what fails next is a new failure.
func (e *Engine) progressed() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failures = 0
}

// backoff is full jitter over a doubling span, never below a tenth of it.
func backoff(first, most time.Duration, failures int, random float64) time.Duration {
	span := most
	if shift := failures - 1; shift < 20 && first<<shift < most {
		span = first << shift
	}
	return span/10 + time.Duration(random*float64(span-span/10))
}

func (e *Engine) sleep(ctx context.Context, rest time.Duration) error {
	if rest <= 0 {
		return nil
	}
	timer := time.NewTimer(rest)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
	case <-e.wake:
	}
	return nil
}

// giveUp ends an update whose step failed for good: it can't do better the next
// time, or it was tried often enough. What fails before the trial leaves the
// device as it was; in the trial it goes back; after it there is only one way.
func (e *Engine) giveUp(state State, err error, failures int) error {
	rule, final := classify(err)
	tries := e.cfg.Tries
	if rule == ruleChunk {
		tries = min(tries, maxDamaged)
	}
	if !final && failures < tries {
		return nil
	}
	switch state {
	case Fetching, Installing, Installed:
		outcome := wire.UpdateFailed
		if final && rule != ruleBudget {
			outcome = wire.UpdateRefused
		}
		return e.end(outcome, rule, e.explain(rule, err), final && blocks(rule))
	case Trying:
		if e.job().Trials > 1 {
			return e.end(wire.UpdateRolledBack, rule, err.Error(), true)
		}
		return e.end(wire.UpdateFailed, rule, err.Error(), final)
	case Confirming, Committing:
		return e.goBack(rule, err.Error())
	}
	return nil
}

// explain adds what a person can do.
func (e *Engine) explain(rule string, err error) string {
	if rule != ruleBudget {
		return err.Error()
	}
	job := e.job()
	return fmt.Sprintf("The %d bytes that one update may fetch are used up; what was fetched is kept. "+
		"`gatewarden update apply --budget BYTES` goes on with more.", job.Budget)
}

// Rules that are ours.
const (
	ruleBudget  = "budget"
	ruleChunk   = "chunk"
	ruleAbsent  = "absent"
	ruleTrouble = "trouble"
	ruleBoot    = "boot"
	ruleLink    = "link"
	ruleVerdict = "verdict"
	ruleNewer   = "superseded"
)

// classify names the rule behind an error, and says whether it is final: the same
// bytes will be refused again.
func classify(err error) (rule string, final bool) {
	var refused *policy.Refusal
	var release *release.Refusal
	var metadata *tuf.Refusal
	switch {
	case errors.As(err, &refused):
		return refused.Rule, refused.Rule != "tuf/expired" && refused.Rule != "busy"
	case errors.As(err, &release):
		return release.Rule, true
	case errors.As(err, &metadata):
		return "tuf/" + metadata.Rule, metadata.Rule != "expired"
	case errors.Is(err, store.ErrBudget):
		return ruleBudget, true
	case errors.Is(err, store.ErrDamaged):
		return ruleChunk, false
	case errors.Is(err, store.ErrAbsent), errors.Is(err, tuf.ErrNoFile), errors.Is(err, tuf.ErrNoTarget):
		return ruleAbsent, false
	}
	return ruleTrouble, false
}

// blocks says whether a rule is about the release itself. A repository whose
// metadata was refused may be mended without changing the release.
func blocks(rule string) bool {
	switch rule {
	case "product", "channel", "hardware", "epoch", "source", "path", "slot", ruleBudget:
		return true
	}
	return false
}

// end records what became of the update. That outcome is kept until it is handed
// over.
func (e *Engine) end(outcome, rule, why string, block bool) error {
	return e.enter(Reporting, func(j *Job) {
		j.Outcome, j.Rule, j.Text, j.Block, j.Ended = outcome, rule, shorten(why), block, e.cfg.Now()
	})
}

// shorten cuts a sentence to what a message takes.
func shorten(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxText)], "") }

// hand gives the outcome away. Until that worked the device reports nothing else.
func (e *Engine) hand(context.Context) (time.Duration, error) {
	job := e.job()
	message := job.message(Reporting)
	if !e.repeated(message) {
		if err := e.cfg.Report(message); err != nil {
			return 0, fmt.Errorf("report outcome: %w", err)
		}
	}
	err := e.change(func(r *Record) {
		r.State, r.Now = Idle, nil
		r.History = append([]wire.Update{message}, r.History...)
		r.History = r.History[:min(len(r.History), maxHistory)]
		if job.Block {
			r.Blocked = append([]Block{{Target: job.Target, Digest: job.Digest, Rule: job.Rule}}, r.Blocked...)
			r.Blocked = r.Blocked[:min(len(r.Blocked), maxBlocked)]
		}
	})
	if err != nil {
		return 0, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if job.Block || job.Rule == ruleNewer || job.Outcome == wire.UpdateInstalled {
		e.due = e.cfg.Uptime() // there may be another release
	} else {
		e.due = e.cfg.Uptime() + e.interval()
	}
	return 0, nil
}

// repeated says that the outcome is the one before: a release that can't be
// installed is told once, not at each look.
func (e *Engine) repeated(m wire.Update) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.record.History) == 0 || m.Outcome != wire.UpdateFailed && m.Outcome != wire.UpdateRefused {
		return false
	}
	last := e.record.History[0]
	return last.Release == m.Release && last.Outcome == m.Outcome && last.Rule == m.Rule && last.Text == m.Text
}

// interval is Every, spread by a tenth.
func (e *Engine) interval() time.Duration {
	return e.cfg.Every - time.Duration(e.cfg.Rand()*float64(e.cfg.Every)/10)
}
