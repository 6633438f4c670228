package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/update/release"
)

const (
	version2 = "2.0.0"
	version3 = "3.0.0"
	defect   = "rd.break=pre-mount" // what release 3 boots with, unlike what was signed
)

// confirm is what a release must show before it may stay.
func confirm() release.Confirm {
	return release.Confirm{Checks: []release.Criterion{{Check: "disk", Within: 12}}, Link: true, Verdict: true, Timeout: 12}
}

// updated releases version 2; gateway 1 takes it in by itself.
func updated(ctx context.Context, w *world) ([]string, error) {
	g := w.gateways[0]
	if err := w.reconfigure(ctx, g); err != nil {
		return nil, err
	}
	if err := w.publish(ctx, newSoftware(version2, 2)); err != nil {
		return nil, fmt.Errorf("release %s: %w", version2, err)
	}
	if err := w.untilReboot(ctx, g); err != nil {
		return nil, err
	}
	since := time.Now()
	if err := w.boot(ctx, g, ""); err != nil {
		return nil, err
	}
	if g.slot != "b" {
		return nil, fmt.Errorf("the boot loader chose slot %s for the trial", g.slot)
	}
	done, err := w.outcome(ctx, g, version2)
	if err != nil {
		return nil, err
	}
	if done.Outcome != wire.UpdateInstalled {
		return nil, fmt.Errorf("release %s: %s: %s", version2, done.Outcome, done.Text)
	}
	s, err := g.awaitStatus(ctx, "is trusted on the new release", func(s local.Status) bool {
		return s.Verdict != nil && s.Verdict.Issued.After(since) && s.Verdict.Grade == string(attest.Trusted)
	})
	if err != nil {
		return nil, err
	}
	if !strings.Contains(s.Verdict.Explanation[0], version2) {
		return nil, fmt.Errorf("the verdict does not name release %s: %s", version2, s.Verdict.Explanation[0])
	}
	return []string{
		fmt.Sprintf("release %s built, signed and published by the owner; %s verified it, fetched %.1f of 64 MiB (%d chunks) and wrote slot b",
			version2, g.name, float64(done.Fetched)/(1<<20), done.Chunks),
		"it booted slot b on trial, proved itself and committed: " + s.Verdict.Explanation[0],
		"nobody touched a reference value: they came signed with the release",
	}, nil
}

// rolledBack releases version 3, which does not boot as it was signed: the verdict,
// one of its confirm criteria, fails on trial.
func rolledBack(ctx context.Context, w *world) ([]string, error) {
	g := w.gateways[0]
	if err := w.publish(ctx, newSoftware(version3, 3)); err != nil {
		return nil, fmt.Errorf("release %s: %w", version3, err)
	}
	if err := w.untilReboot(ctx, g); err != nil {
		return nil, err
	}
	if err := w.boot(ctx, g, defect); err != nil {
		return nil, err
	}
	if g.slot != "a" {
		return nil, fmt.Errorf("the boot loader chose slot %s for the trial", g.slot)
	}
	if err := w.untilReboot(ctx, g); err != nil {
		return nil, err
	}
	since := time.Now()
	if err := w.boot(ctx, g, ""); err != nil {
		return nil, err
	}
	if g.slot != "b" {
		return nil, fmt.Errorf("after the trial the boot loader chose slot %s", g.slot)
	}
	done, err := w.outcome(ctx, g, version3)
	if err != nil {
		return nil, err
	}
	if done.Outcome != wire.UpdateRolledBack {
		return nil, fmt.Errorf("release %s: %s: %s", version3, done.Outcome, done.Text)
	}
	s, err := g.awaitStatus(ctx, "is trusted on the release before", func(s local.Status) bool {
		return s.Link.Connected && s.Link.Identity == g.id && s.Verdict != nil && s.Verdict.Issued.After(since) &&
			s.Verdict.Grade == string(attest.Trusted)
	})
	if err != nil {
		return nil, err
	}
	return []string{
		fmt.Sprintf("release %s did not boot as it was signed; back on slot b by itself: %s", version3, s.Verdict.Explanation[0]),
		fmt.Sprintf("the fleet knows why (%s): %s", done.Outcome, done.Text),
	}, nil
}

// reconfigure restarts a gateway that from now on installs what is released.
func (w *world) reconfigure(ctx context.Context, g *gateway) error {
	g.updates = true
	if err := g.shutDown(); err != nil {
		return err
	}
	if err := w.boot(ctx, g, ""); err != nil {
		return err
	}
	_, err := g.awaitStatus(ctx, "is connected", func(s local.Status) bool { return s.Link.Connected })
	return err
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

// outcome waits until the fleet knows what became of a release on g.
func (w *world) outcome(ctx context.Context, g *gateway, version string) (wire.Update, error) {
	var found wire.Update
	err := await(ctx, "the fleet knows what became of release "+version, func() (bool, error) {
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
			if u.Release == version && u.Outcome != "" {
				found = u
				return true, nil
			}
		}
		return false, nil
	})
	return found, err
}
