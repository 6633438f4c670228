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

// accident is one way for the power to go.
type accident struct {
	during   string
	rotation bool // a certificate is being rotated
	again    bool // it goes once more while the gateway starts
}

func accidents() []accident {
	return []accident{
		{during: "while messages flowed"},
		{during: "while the certificate was rotated under load", rotation: true},
		{during: "while messages flowed, and again while the gateway started", again: true},
	}
}

const (
	longestRun   = 600 * time.Millisecond // from the first message to the cut, at most
	longestStart = 150 * time.Millisecond // from power on to the second cut, at most
)

// powerCuts kills gateway 1 at moments from the seed.
func powerCuts(ctx context.Context, w *world) ([]string, error) {
	g := w.gateways[0]
	var lines []string
	for _, a := range accidents() {
		moment := time.Duration(w.random.Int64N(int64(longestRun)))
		line, err := w.powerCut(ctx, g, a, moment)
		if err != nil {
			return lines, fmt.Errorf("power cut %v in, %s: %w", moment.Round(time.Millisecond), a.during, err)
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

func (w *world) powerCut(ctx context.Context, g *gateway, a accident, moment time.Duration) (string, error) {
	run, hash, err := w.startLoad(ctx, g, loadMessages)
	if err != nil {
		return "", err
	}
	if a.rotation {
		if err := w.sendOnly(ctx, g, "rotate"); err != nil {
			return "", err
		}
	}
	if err := w.cutAfter(ctx, g, moment); err != nil {
		return "", err
	}
	back := time.Now()
	if err := w.boot(ctx, g, ""); err != nil {
		return "", err
	}
	if a.again {
		if err := w.cutAfter(ctx, g, time.Duration(w.random.Int64N(int64(longestStart)))); err != nil {
			return "", err
		}
		back = time.Now()
		if err := w.boot(ctx, g, ""); err != nil {
			return "", err
		}
	}
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
	return fmt.Sprintf("cut %d ms in, %s: trusted again %d ms after power on; messages 1 to %d arrived, none lost, none twice",
		moment.Milliseconds(), a.during, took.Milliseconds(), len(got)), nil
}

// cutAfter lets d pass and cuts the power of g.
func (w *world) cutAfter(ctx context.Context, g *gateway, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return g.cut()
	}
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
