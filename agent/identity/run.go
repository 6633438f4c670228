package identity

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"time"

	"github.com/gatewarden/gatewarden/internal/wire"
)

const (
	firstBackoff = time.Second
	lastBackoff  = 10 * time.Minute
	longestSleep = time.Hour // wake at least so often: clocks jump
)

// RenewAt is when a certificate is renewed: at two thirds of its life, moved
// earlier by up to a twentieth, by a share that is fixed for each serial number, so
// that a fleet enrolled in one hour does not renew in one hour.
func RenewAt(notBefore, notAfter time.Time, serial []byte) time.Time {
	life := notAfter.Sub(notBefore)
	sum := sha256.Sum256(serial)
	share := float64(binary.BigEndian.Uint32(sum[:4])) / (1 << 32)
	return notBefore.Add(life*2/3 - time.Duration(share*float64(life/20)))
}

// Run keeps the device enrolled and its certificate fresh until ctx ends.
func (i *Identity) Run(ctx context.Context) error {
	failures := 0
	why := ""
	for {
		wait, err := i.step(ctx, why)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		i.setResult(err)
		if err != nil {
			wait = backoff(failures)
			failures++
			i.cfg.Log.Warn("exchange with the fleet did not work", "error", err, "retry_in", wait)
		} else {
			failures = 0
		}
		if why, err = i.sleep(ctx, wait, why, err); err != nil {
			return err
		}
	}
}

// sleep returns the reason of a Kick, or what was wanted before if an exchange
// for it failed.
func (i *Identity) sleep(ctx context.Context, wait time.Duration, why string, failed error) (string, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case reason := <-i.kick:
		return reason, nil
	case <-timer.C:
		if failed != nil {
			return why, nil
		}
		return "", nil
	}
}

// Kick asks for a renewal now; reason is a few words for the log.
func (i *Identity) Kick(reason string) {
	select {
	case i.kick <- reason:
	default: // one is waiting already
	}
}

// Rotate renews now and returns when the new certificate is in use.
func (i *Identity) Rotate(ctx context.Context) error {
	i.exchange.Lock()
	defer i.exchange.Unlock()
	return i.renew(ctx)
}

// step does what is due and returns how long nothing else will be.
func (i *Identity) step(ctx context.Context, why string) (time.Duration, error) {
	i.exchange.Lock()
	defer i.exchange.Unlock()
	current, ok := i.Current()
	if !ok {
		i.setPhase("enrolling")
		err := i.enroll(ctx)
		return i.untilDue(), err
	}
	now, _ := i.cfg.Clock.Now()
	leaf := current.Leaf()
	switch {
	case now.After(leaf.NotAfter):
		why = "the certificate has expired"
	case !now.Before(RenewAt(leaf.NotBefore, leaf.NotAfter, leaf.SerialNumber.Bytes())):
		why = "two thirds of the certificate's life are over"
	}
	if why == "" {
		i.setPhase("idle")
		return i.untilDue(), nil
	}
	i.setPhase("renewing: " + why)
	i.cfg.Log.Info("renewing certificate", "reason", why)
	if err := i.renew(ctx); err != nil {
		return 0, i.recover(ctx, err)
	}
	return i.untilDue(), nil
}

// recover proves the device by EK and AK again when its certificate no longer
// opens the door.
func (i *Identity) recover(ctx context.Context, cause error) error {
	var refused *Refused
	var network *net.OpError
	if errors.As(cause, &refused) && refused.Rule == wire.RuleStaleVerdict || errors.As(cause, &network) && network.Op == "dial" {
		return cause
	}
	i.cfg.Log.Info("renewal did not work, recovering by EK and AK", "error", cause)
	i.setPhase("recovering")
	if err := i.enroll(ctx); err != nil {
		return errors.Join(cause, err)
	}
	return nil
}

// untilDue is the time to the next renewal, at most longestSleep.
func (i *Identity) untilDue() time.Duration {
	current, ok := i.Current()
	if !ok {
		return 0
	}
	now, _ := i.cfg.Clock.Now()
	leaf := current.Leaf()
	due := RenewAt(leaf.NotBefore, leaf.NotAfter, leaf.SerialNumber.Bytes()).Sub(now)
	return min(max(due, time.Second), longestSleep)
}

// backoff is full jitter: anything between nothing and a bound that doubles.
func backoff(failures int) time.Duration {
	bound := min(firstBackoff<<min(failures, 10), lastBackoff)
	return firstBackoff/10 + rand.N(bound)
}

func (i *Identity) pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
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
