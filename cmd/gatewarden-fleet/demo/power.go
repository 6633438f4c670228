package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm"
)

// cuts is how often the power goes.
const cuts = 3

// powerCuts kills gateway 1 at moments from the seed: while messages flow, and
// while a certificate is rotated.
func powerCuts(ctx context.Context, w *world) ([]string, error) {
	g := w.gateways[0]
	var lines []string
	for i := range cuts {
		withRotation := i%2 == 1
		moment := time.Duration(w.random.Int64N(int64(600 * time.Millisecond)))
		line, err := w.powerCut(ctx, g, moment, withRotation)
		if err != nil {
			return lines, fmt.Errorf("cut %d, %v into it: %w", i+1, moment.Round(time.Millisecond), err)
		}
		lines = append(lines, line)
	}
	locked, err := lockouts(ctx, g)
	if err != nil {
		return lines, err
	}
	if locked != 0 {
		return lines, fmt.Errorf("the TPM counts %d authorisation failures after the cuts", locked)
	}
	return append(lines, "after all cuts the TPM counts no authorisation failure, and the identity is the same"), nil
}

func (w *world) powerCut(ctx context.Context, g *gateway, moment time.Duration, withRotation bool) (string, error) {
	run, hash, err := w.startLoad(ctx, g, loadMessages)
	if err != nil {
		return "", err
	}
	during := "messages flowed"
	if withRotation {
		during = "the certificate was rotated under load"
		if err := w.sendOnly(ctx, g, "rotate"); err != nil {
			return "", err
		}
	}
	timer := time.NewTimer(moment)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case <-timer.C:
	}
	if err := g.cut(); err != nil {
		return "", err
	}
	if err := w.boot(ctx, g, goodCommandLine); err != nil {
		return "", err
	}
	back := time.Now()
	if err := w.recovered(ctx, g, back); err != nil {
		return "", err
	}
	took := time.Since(back)
	r, err := w.receipt(ctx, g, hash, 1)
	if err != nil {
		return "", err
	}
	if r.Outcome != wire.OutcomeUnknown {
		return "", fmt.Errorf("the interrupted command reports %q", r.Outcome)
	}
	got, err := w.indexes(ctx, g, run)
	if err := errors.Join(err, gapless(got)); err != nil {
		return "", err
	}
	return fmt.Sprintf("cut while %s: back and trusted in %.1f s; of its test messages 1 to %d arrived, none lost, none twice",
		during, took.Seconds(), len(got)), nil
}

// sendOnly hands in a command without waiting for what becomes of it.
func (w *world) sendOnly(ctx context.Context, g *gateway, verb string) error {
	c, err := w.command(ctx, g, verb, nil)
	if err != nil {
		return err
	}
	e, err := w.keys.sign(ctx, c, person)
	if err != nil {
		return err
	}
	_, err = w.api.Command(ctx, g.id, e)
	return err
}

// recovered waits until g is connected, trusted anew, and has sent all it had.
func (w *world) recovered(ctx context.Context, g *gateway, since time.Time) error {
	s, err := g.awaitStatus(ctx, "is back", func(s local.Status) bool {
		return s.Link.Connected && s.Outbox.Pending == 0 && s.Verdict != nil && s.Verdict.Issued.After(since) &&
			s.Verdict.Grade == string(attest.Trusted)
	})
	if err != nil {
		return err
	}
	if s.Device != g.id || s.Outbox.Dropped != 0 {
		return fmt.Errorf("it came back as %s with %d messages dropped", s.Device, s.Outbox.Dropped)
	}
	return nil
}

func lockouts(ctx context.Context, g *gateway) (uint32, error) {
	chip, err := tpm.Open(ctx, "unix:"+g.tpmSocket())
	if err != nil {
		return 0, err
	}
	defer chip.Close()
	info, err := chip.Info(ctx)
	return info.LockoutCounter, err
}
