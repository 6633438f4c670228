package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/update/release"
)

// The releases after the first. The second raises the security epoch, the third
// needs data that no gateway has.
const (
	version2   = "2.0.0"
	version3   = "3.0.0"
	lateSchema = 3
)

// confirm is what a release must show before it may stay.
func confirm() release.Confirm {
	return release.Confirm{Checks: []release.Criterion{{Check: "services", Within: 3}}, Link: true, Verdict: true, Timeout: 30}
}

// updated releases version 2; gateway 1 takes it in by itself.
func updated(ctx context.Context, w *world) ([]string, error) {
	g := w.gateways[0]
	old, err := os.ReadFile(oldFile(g))
	if err != nil {
		return nil, err
	}
	if err := w.follow(ctx, g); err != nil {
		return nil, err
	}
	if err := w.publish(ctx, newSoftware(version2, 2, 2)); err != nil {
		return nil, fmt.Errorf("release %s: %w", version2, err)
	}
	if err := w.trial(ctx, g, "b"); err != nil {
		return nil, err
	}
	done, err := w.outcome(ctx, g, version2)
	if err != nil {
		return nil, err
	}
	if done.Outcome != wire.UpdateInstalled {
		return nil, fmt.Errorf("release %s: %s: %s", version2, done.Outcome, done.Text)
	}
	first, err := w.trustedOn(ctx, g, version2)
	if err != nil {
		return nil, err
	}
	lines := []string{
		fmt.Sprintf("release %s built, signed and published by the owner; %s verified it, fetched %.1f of 64 MiB (%d chunks) and wrote slot b",
			version2, g.name, float64(done.Fetched)/(1<<20), done.Chunks),
		"it booted slot b on trial, proved itself and committed: " + first,
		"nobody touched a reference value: they came signed with the release",
	}
	shut, err := w.oldStaysShut(ctx, g, old)
	if err != nil {
		return lines, err
	}
	lines = append(lines, "the secret was sealed anew for security epoch 2; a copy from before stays shut: "+shut)
	if err := w.opensAlone(ctx, g); err != nil {
		return lines, err
	}
	return append(lines, "with the fleet server stopped and the power cut, the secret opens"), nil
}

// follow restarts a gateway that from now on installs what is released.
func (w *world) follow(ctx context.Context, g *gateway) error {
	g.updates = true
	if err := errors.Join(g.shutDown(), w.boot(ctx, g, "")); err != nil {
		return err
	}
	_, err := g.awaitStatus(ctx, "is connected", func(s local.Status) bool { return s.Link.Connected })
	return err
}

// trial waits until g goes down and boots it again, out of slot.
func (w *world) trial(ctx context.Context, g *gateway, slot string) error {
	if err := w.untilReboot(ctx, g); err != nil {
		return err
	}
	return w.bootInto(ctx, g, slot)
}

// bootInto boots g, and says which slot must come up.
func (w *world) bootInto(ctx context.Context, g *gateway, slot string) error {
	if err := w.boot(ctx, g, ""); err != nil {
		return err
	}
	if g.slot != slot {
		return fmt.Errorf("the boot loader chose slot %s, not %s", g.slot, slot)
	}
	return nil
}

// untilReboot waits until the helper asks for a reboot, and switches the machine off.
func (w *world) untilReboot(ctx context.Context, g *gateway) error {
	err := await(ctx, g.name+" asks for a reboot", func() (bool, error) {
		if err := g.failed(); err != nil {
			return false, fatal{err}
		}
		_, err := os.Stat(g.rebootFile())
		return err == nil, nil
	})
	if err != nil {
		return err
	}
	return errors.Join(g.shutDown(), os.Remove(g.rebootFile()))
}

// trustedOn waits for a trusted verdict of this boot that names the release, and
// returns its first line.
func (w *world) trustedOn(ctx context.Context, g *gateway, version string) (string, error) {
	s, err := g.awaitStatus(ctx, "is trusted on release "+version, func(s local.Status) bool {
		return s.Link.Connected && s.Link.Identity == g.id && s.Verdict != nil && s.Verdict.Issued.After(g.booted) &&
			s.Verdict.Grade == string(attest.Trusted)
	})
	if err != nil {
		return "", err
	}
	if !strings.Contains(s.Verdict.Explanation[0], version) {
		return "", fmt.Errorf("the verdict does not name release %s: %s", version, s.Verdict.Explanation[0])
	}
	return s.Verdict.Explanation[0], nil
}

// outcome waits until the fleet knows what became of a release on g.
func (w *world) outcome(ctx context.Context, g *gateway, version string) (wire.Update, error) {
	return w.report(ctx, g, "what became of release "+version, func(u wire.Update) bool { return u.Release == version })
}

// report waits until the fleet knows an outcome.
func (w *world) report(ctx context.Context, g *gateway, what string, is func(wire.Update) bool) (wire.Update, error) {
	var found wire.Update
	err := await(ctx, "the fleet knows "+what, func() (bool, error) {
		if err := g.failed(); err != nil {
			return false, fatal{err}
		}
		messages, err := w.server.Store().Messages(ctx, g.id, string(wire.KindUpdate), 100)
		if err != nil {
			return false, err
		}
		for _, m := range messages {
			var u wire.Update
			if err := json.Unmarshal(m.Body, &u); err != nil {
				return false, err
			}
			if u.Outcome != "" && is(u) {
				found = u
				return true, nil
			}
		}
		return false, nil
	})
	return found, err
}

// rolledBack releases version 3, whose service does not work with the data that the
// gateway has.
func (w *world) rolledBack(ctx context.Context, g *gateway) ([]string, error) {
	broken := newSoftware(version3, 2, 3)
	broken.schema = lateSchema
	if err := w.publish(ctx, broken); err != nil {
		return nil, fmt.Errorf("release %s: %w", version3, err)
	}
	if err := w.trial(ctx, g, "a"); err != nil {
		return nil, err
	}
	if err := w.trial(ctx, g, "b"); err != nil {
		return nil, err
	}
	done, err := w.outcome(ctx, g, version3)
	if err != nil {
		return nil, err
	}
	if done.Outcome != wire.UpdateRolledBack || done.Rule != "services" {
		return nil, fmt.Errorf("release %s: %s (%s): %s", version3, done.Outcome, done.Rule, done.Text)
	}
	first, err := w.trustedOn(ctx, g, version2)
	if err != nil {
		return nil, err
	}
	return []string{
		fmt.Sprintf("release %s booted on trial and its service failed; back on slot b by itself: %s", version3, first),
		fmt.Sprintf("the fleet knows why (%s): %s", done.Outcome, done.Text),
	}, w.opens(ctx, g)
}
