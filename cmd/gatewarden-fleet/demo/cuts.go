package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/update"
	"github.com/gatewarden/gatewarden/update/boot"
)

const (
	version5     = "5.0.0"
	longestWrite = 300 * time.Millisecond // from the first chunk written, or from a boot, to a cut, at most
)

// updateCuts takes release 5 in, and cuts the power at each stage, at moments from
// the seed. What boots then is checked each time.
func updateCuts(ctx context.Context, w *world) ([]string, error) {
	g := w.gateways[0]
	w.requests.take()
	if err := w.publish(ctx, newSoftware(version5, 3, 4)); err != nil {
		return nil, fmt.Errorf("release %s: %w", version5, err)
	}
	var lines []string
	for _, stage := range []func(context.Context, *gateway) (string, error){w.cutDownload, w.cutWrite, w.cutBeforeTrial, w.cutTrial, w.cutCommit} {
		line, err := stage(ctx, g)
		if err != nil {
			return lines, err
		}
		lines = append(lines, line)
	}
	done, err := w.outcome(ctx, g, version5)
	if err != nil {
		return lines, err
	}
	if done.Outcome != wire.UpdateInstalled {
		return lines, fmt.Errorf("release %s: %s (%s): %s", version5, done.Outcome, done.Rule, done.Text)
	}
	twice := 0
	chunks := w.requests.take()
	for _, n := range chunks {
		twice += n - 1
	}
	if cuts := 2; twice > cuts {
		return lines, fmt.Errorf("%d of %d chunks were fetched again after %d cuts", twice, len(chunks), cuts)
	}
	first, err := w.trustedOn(ctx, g, version5)
	if err != nil {
		return lines, err
	}
	if err := w.opens(ctx, g); err != nil {
		return lines, err
	}
	return append(lines, fmt.Sprintf("in the end: %s; %d chunks fetched, %d of them again; security epoch 3, and the secret opens", first, len(chunks), twice)), nil
}

// progress waits until the engine shows what ok wants.
func (w *world) progress(ctx context.Context, g *gateway, what string, ok func(update.Status) bool) error {
	return await(ctx, g.name+" "+what, func() (bool, error) {
		if err := g.failed(); err != nil {
			return false, fatal{err}
		}
		s, err := local.UpdateStatus(ctx, g.agentSocket())
		if s.Problem != "" {
			err = errors.Join(err, errors.New(s.Problem))
		}
		return err == nil && ok(s), err
	})
}

// cutDownload cuts when some of the chunks have come.
func (w *world) cutDownload(ctx context.Context, g *gateway) (string, error) {
	want := 1 + w.random.IntN(changed/2)
	err := w.progress(ctx, g, "downloads", func(s update.Status) bool { return s.Progress != nil && s.Progress.Fetched >= want || past(s) })
	if err != nil {
		return "", err
	}
	if err := errors.Join(g.cut(), w.bootInto(ctx, g, "b")); err != nil {
		return "", err
	}
	return fmt.Sprintf("cut in the download, after %d chunks: slot b boots, the download goes on", want), nil
}

// past says that the spare slot is written.
func past(s update.Status) bool {
	return s.State == update.Installed || s.State == update.Trying
}

// cutWrite cuts some time after the spare slot was touched in this boot.
func (w *world) cutWrite(ctx context.Context, g *gateway) (string, error) {
	moment := time.Duration(w.random.Int64N(int64(longestWrite)))
	err := await(ctx, g.name+" writes the spare slot", func() (bool, error) {
		info, err := os.Stat(g.machine.image("a", "rootfs"))
		return err == nil && info.ModTime().After(g.booted) || g.asksReboot(), err
	})
	if err != nil {
		return "", err
	}
	if err := w.cutAfter(ctx, g, moment); err != nil {
		return "", err
	}
	slot, err := w.restart(ctx, g, "b", "a")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("cut %d ms into writing: slot %s boots, what was written stays", moment.Milliseconds(), slot), nil
}

// restart boots g, out of one of slots, and returns which.
func (w *world) restart(ctx context.Context, g *gateway, slots ...string) (string, error) {
	if err := os.Remove(g.rebootFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if err := w.boot(ctx, g, ""); err != nil {
		return "", err
	}
	for _, slot := range slots {
		if g.slot == slot {
			return slot, nil
		}
	}
	return g.slot, fmt.Errorf("slot %s booted", g.slot)
}

func (g *gateway) asksReboot() bool {
	_, err := os.Stat(g.rebootFile())
	return err == nil
}

// cutBeforeTrial cuts when the loader knows of the trial and the machine has not
// gone down.
func (w *world) cutBeforeTrial(ctx context.Context, g *gateway) (string, error) {
	const line = "cut between \"set trial\" and the reboot: slot a boots on trial"
	if g.slot == "a" {
		return line + " (that was the cut before)", nil
	}
	if err := w.awaitLoader(ctx, g, "is to try slot a", func(c boot.FileState) bool { return c.Try == "a" && c.Tries > 0 }); err != nil {
		return "", err
	}
	if err := g.cut(); err != nil {
		return "", err
	}
	_, err := w.restart(ctx, g, "a")
	return line, err
}

func (w *world) awaitLoader(ctx context.Context, g *gateway, what string, ok func(boot.FileState) bool) error {
	return await(ctx, g.name+" "+what, func() (bool, error) {
		c, err := boot.FileRead(g.machine.dir)
		return err == nil && ok(c), err
	})
}

// cutTrial cuts some time into the trial boot: the loader goes back by itself, and
// the engine tries once more.
func (w *world) cutTrial(ctx context.Context, g *gateway) (string, error) {
	moment := time.Duration(w.random.Int64N(int64(longestWrite)))
	if err := w.cutAfter(ctx, g, moment); err != nil {
		return "", err
	}
	slot, err := w.restart(ctx, g, "b", "a")
	if err != nil {
		return "", err
	}
	line := fmt.Sprintf("cut %d ms into the trial boot: slot %s boots", moment.Milliseconds(), slot)
	if slot == "a" {
		return line + ", where it had committed already", nil
	}
	return line + "; then the trial is made again", w.trial(ctx, g, "a")
}

// cutCommit cuts when the loader has the new default, before or while the epoch is
// raised.
func (w *world) cutCommit(ctx context.Context, g *gateway) (string, error) {
	if err := w.awaitLoader(ctx, g, "commits", func(c boot.FileState) bool { return c.Default == "a" }); err != nil {
		return "", err
	}
	if err := g.cut(); err != nil {
		return "", err
	}
	if _, err := w.restart(ctx, g, "a"); err != nil {
		return "", err
	}
	return "cut between the commit and the raised epoch: slot a boots, and the commit is finished", nil
}
