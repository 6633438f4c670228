package identity

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	"github.com/gatewarden/gatewarden/tpm"
)

const (
	firstBackoff = time.Second
	lastBackoff  = 10 * time.Minute
	longestSleep = time.Hour   // wake at least so often: clocks jump
	kickGap      = time.Second // least time between an exchange and the next one that is kicked
)

// Run keeps the device enrolled and its certificate fresh until ctx ends.
func (i *Identity) Run(ctx context.Context) error {
	failures, why := 0, ""
	for {
		wait, err := i.step(ctx, why)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		i.setResult(err)
		failed := err != nil
		if failed {
			wait = backoff(err, failures)
			failures++
			i.cfg.Log.Warn("exchange with the fleet did not work", "error", err, "retry_in", wait)
		} else {
			failures, why = 0, ""
		}
		if why, err = i.sleep(ctx, wait, why, failed); err != nil {
			return err
		}
	}
}

// sleep returns why the next exchange is wanted, "" if only time passed. Kicks
// never come faster than kickGap, and after a failure they only say why: whoever
// kicks must not outrun the backoff.
func (i *Identity) sleep(ctx context.Context, wait time.Duration, why string, failed bool) (string, error) {
	over, pace := i.cfg.After(wait), i.cfg.After(kickGap)
	kick, kicked := i.kick, false
	if failed {
		pace = nil
	}
	for {
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case why = <-kick:
			kick, kicked = nil, true
			if !failed && pace == nil {
				return why, nil
			}
		case <-pace:
			pace = nil
			if kicked {
				return why, nil
			}
		case <-over:
			return why, nil
		}
	}
}

// Kick asks for a renewal soon; reason is a few words for the log.
func (i *Identity) Kick(reason string) {
	select {
	case i.kick <- reason:
	default: // one is waiting already
	}
}

// Rotate renews now, or recovers, and returns when the new certificate is in use.
func (i *Identity) Rotate(ctx context.Context) error {
	if err := i.begin(ctx); err != nil {
		return fmt.Errorf("renew: another exchange with the fleet is under way: %w", err)
	}
	defer i.end()
	err := i.replace(ctx, "a person or a command asked for it")
	i.setResult(err)
	return err
}

func (i *Identity) begin(ctx context.Context) error {
	select {
	case i.exchange <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (i *Identity) end() { <-i.exchange }

// step does what is due and returns how long nothing else will be.
func (i *Identity) step(ctx context.Context, why string) (time.Duration, error) {
	if err := i.begin(ctx); err != nil {
		return 0, err
	}
	defer i.end()
	if err := i.resume(ctx); err != nil {
		return 0, err
	}
	current, ok := i.Current()
	if !ok {
		i.setPhase("enrolling")
		err := i.enroll(ctx, "there was no certificate")
		return i.untilDue(), err
	}
	if reason := due(current.Leaf(), i.age()); reason != "" {
		why = reason
	}
	if why == "" {
		return i.untilDue(), nil
	}
	if err := i.replace(ctx, why); err != nil {
		return 0, err
	}
	return i.untilDue(), nil
}

// replace renews the certificate or, where it opens the door no more, recovers.
func (i *Identity) replace(ctx context.Context, why string) error {
	i.setPhase("renewing: " + why)
	i.cfg.Log.Info("renewing certificate", "reason", why)
	err := i.renew(ctx, why)
	if err == nil {
		return nil
	}
	now, _ := i.cfg.Clock.Now()
	current, ok := i.Current()
	if !ok || !mustRecover(err, now.After(current.Leaf().NotAfter)) {
		return err
	}
	i.cfg.Log.Info("renewal did not work, recovering", "by", i.keys.by(), "error", err)
	i.setPhase("recovering")
	if recovery := i.enroll(ctx, why+"; recovered by "+i.keys.by()); recovery != nil {
		return fmt.Errorf("recover by %s, because the renewal did not work (%v): %w", i.keys.by(), err, recovery)
	}
	return nil
}

// resume puts into use what a cut interrupted. A fleet that can't be reached is an
// error; a credential that it does not accept is dropped.
func (i *Identity) resume(ctx context.Context) error {
	if i.unproven == nil {
		return nil
	}
	err := i.promote(ctx)
	if err == nil || ctx.Err() != nil || unreachable(err) {
		return err
	}
	i.cfg.Log.Info("the credential of an interrupted renewal is not accepted", "error", err)
	i.giveUp()
	return nil
}

// mustRecover reports whether a failed renewal says that the certificate, or the
// keys behind it, open the door no more. A fleet that is away, overloaded or
// not satisfied with the moment is none of that: its answer may be better soon.
func mustRecover(cause error, expired bool) bool {
	var refused *Refused
	if errors.As(cause, &refused) {
		switch refused.Rule {
		case "certificate", "identity", "unauthenticated", "pending", "key-proof",
			"evidence.signature", "evidence.keys", "evidence.channel":
			return refused.Status < 500
		}
		return false
	}
	switch {
	// The TLS alert of a server that refuses us. It hangs up with it: what we send then
	// may fail before the alert is read.
	case happened(cause, "remote error"), happened(cause, "write"):
		return true
	case errors.Is(cause, tpm.ErrDamaged), errors.Is(cause, tpm.ErrReplaced):
		return true
	}
	return expired && !unreachable(cause)
}

// unreachable reports whether somebody was not there to answer.
func unreachable(err error) bool { return happened(err, "dial") }

// happened looks for a *net.OpError with this Op: the fleet may have several
// addresses, and err one cause for each.
func happened(err error, op string) bool {
	var several interface{ Unwrap() []error }
	if errors.As(err, &several) {
		return slices.ContainsFunc(several.Unwrap(), func(one error) bool { return happened(one, op) })
	}
	var network *net.OpError
	return errors.As(err, &network) && network.Op == op
}

// backoff is full jitter: anything between nothing and a bound that doubles. A
// device that was revoked asks as seldom as anybody, from the first time on.
func backoff(cause error, failures int) time.Duration {
	bound := min(firstBackoff<<min(failures, 10), lastBackoff)
	least := firstBackoff / 10
	var refused *Refused
	if errors.As(cause, &refused) && refused.Rule == "revoked" {
		bound, least = lastBackoff, lastBackoff
	}
	return least + rand.N(bound)
}

func (i *Identity) setPhase(phase string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.phase = phase
}

func (i *Identity) setResult(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.last = err
	if err == nil {
		i.phase = "idle"
	}
}
