package update

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/gatewarden/gatewarden/internal/helperwire"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/update/release"
)

// note records how the device does before the trial: what it is compared with. A
// device that just started gets time to show it.
func (e *Engine) note(context.Context) (time.Duration, error) {
	now := e.cfg.Condition()
	if !now.whole() && e.stay() < e.cfg.Settle {
		return e.cfg.Look, nil
	}
	return 0, e.enter(Trying, func(j *Job) { j.Before = &now })
}

// stay is how long the state has lasted, in this life of the process.
func (e *Engine) stay() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.cfg.Uptime() - e.since
}

// try has the spare slot booted once. Found on the old slot again, it tries a
// second time: the power may have gone before the trial began.
func (e *Engine) try(ctx context.Context) (time.Duration, error) {
	job, slots, err := e.where(ctx)
	if err != nil {
		return 0, err
	}
	if slots.Running != job.Old {
		return 0, e.enter(Confirming, func(j *Job) { j.Since = e.cfg.Uptime() })
	}
	if job.Before == nil {
		return 0, e.enter(Installed, nil)
	}
	spare := slots.Slots[other(job.Old)]
	switch {
	case spare.State == helperwire.SlotFailed && job.Trials > 0, job.Trials >= maxTrials && spare.State != helperwire.SlotComplete:
		return 0, e.end(wire.UpdateRolledBack, ruleBoot, "It was booted on trial and the device came back without it.", true)
	case spare.State != helperwire.SlotComplete || job.Trials == 0:
		job.Trials++
	}
	if err := e.change(func(r *Record) { r.Now.Trials = job.Trials }); err != nil {
		return 0, err
	}
	if err := e.foresee(ctx, job); err != nil {
		return 0, err
	}
	if err := e.cfg.Installer.Try(ctx, job.Release); err != nil {
		return 0, fmt.Errorf("try release: %w", err)
	}
	return e.cfg.Reboot, nil
}

// where reads which slot runs.
func (e *Engine) where(ctx context.Context) (Job, helperwire.Slots, error) {
	slots, err := e.cfg.Installer.Slots(ctx)
	return e.job(), slots, err
}

// confirm compares the device on trial with what it was before, by the criteria
// that the owner signed.
func (e *Engine) confirm(ctx context.Context) (time.Duration, error) {
	job, slots, err := e.where(ctx)
	if err != nil {
		return 0, err
	}
	if slots.Running == job.Old {
		return 0, e.fellBack(job, slots)
	}
	if slots.Version != job.Release {
		return 0, e.goBack(ruleBoot, fmt.Sprintf("Release %s runs, not %s.", slots.Version, job.Release))
	}
	since := e.cfg.Uptime() - job.Since
	if since < 0 { // another boot, though a trial has only one
		return 0, e.enter(Confirming, func(j *Job) { j.Since = e.cfg.Uptime() })
	}
	j := compare(job.Confirm, job.Before, e.cfg.Condition(), since)
	switch {
	case j.Rule != "":
		return 0, e.goBack(j.Rule, j.Text)
	case j.Passed:
		return 0, e.enter(Committing, func(now *Job) { now.Pending = j.Pending })
	}
	return e.cfg.Look, nil
}

// fellBack is called when the old slot runs though the new one was on trial: the
// power went. It gets one more trial.
func (e *Engine) fellBack(job Job, slots helperwire.Slots) error {
	if job.Trials >= maxTrials || slots.Slots[other(job.Old)].State == helperwire.SlotFailed {
		return e.end(wire.UpdateRolledBack, ruleBoot, "It did not stay up until it was confirmed.", true)
	}
	return e.enter(Installed, func(j *Job) { j.Before = nil })
}

// commit keeps the release. Secrets must open under it before there is no way
// back, and indexes follow the slot that they describe.
func (e *Engine) commit(ctx context.Context) (time.Duration, error) {
	job, slots, err := e.where(ctx)
	if err != nil {
		return 0, err
	}
	if slots.Running == job.Old {
		return 0, e.fellBack(job, slots)
	}
	r, custom, err := e.release()
	if err != nil {
		return 0, err
	}
	if e.cfg.Secrets != nil && slots.Trial {
		if err := e.cfg.Secrets.Prepare(ctx, r); err != nil {
			return 0, fmt.Errorf("carry secrets over: %w", err)
		}
	}
	if err := e.cfg.Installer.Commit(ctx, job.Release); err != nil {
		return 0, fmt.Errorf("commit release: %w", err)
	}
	if e.cfg.Secrets != nil {
		if err := e.cfg.Secrets.Settle(ctx, r); err != nil {
			return 0, fmt.Errorf("settle secrets: %w", err)
		}
	}
	if err := e.keepIndexes(fitting(r, slots.Running), custom); err != nil {
		return 0, err
	}
	return 0, e.end(wire.UpdateInstalled, "", "", false)
}

// release reads what was kept of the release under way.
func (e *Engine) release() (*release.Release, []byte, error) {
	data, err := e.cfg.FS.ReadFile(e.path(releaseFile), release.MaxRelease)
	if err != nil {
		return nil, nil, fmt.Errorf("read kept release: %w", err)
	}
	r, err := release.Parse(data)
	return r, data, err
}

// keepIndexes makes the new release's indexes those of the running slot.
func (e *Engine) keepIndexes(images []release.Image, custom []byte) error {
	for _, image := range images {
		err := e.cfg.FS.Rename(e.path(indexFile("next", image.Slot)), e.path(indexFile("running", image.Slot)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("keep index of %s: %w", image.Slot, err)
		}
	}
	if err := e.cfg.FS.WriteFile(e.path(runningFile), custom, 0o600); err != nil {
		return fmt.Errorf("keep release: %w", err)
	}
	return nil
}

// goBack records why before it goes.
func (e *Engine) goBack(rule, why string) error {
	return e.enter(RollingBack, func(j *Job) { j.Rule, j.Text = rule, shorten(why) })
}

// rollBack ends the trial. Back on the old release, one that lost the fleet is at
// fault only if the fleet answers from here: a dead server can't veto a release.
func (e *Engine) rollBack(ctx context.Context) (time.Duration, error) {
	job, slots, err := e.where(ctx)
	if err != nil {
		return 0, err
	}
	switch {
	case slots.Running != job.Old && slots.Trial:
		if err := e.cfg.Installer.Rollback(ctx); err != nil {
			return 0, fmt.Errorf("roll back: %w", err)
		}
		return e.cfg.Reboot, nil
	case slots.Running != job.Old:
		return 0, e.end(wire.UpdateInstalled, job.Rule, "It was committed already: "+job.Text, false)
	case job.Rule != ruleLink && job.Rule != ruleVerdict:
		return 0, e.end(wire.UpdateRolledBack, job.Rule, job.Text, true)
	}
	now := e.cfg.Condition()
	switch {
	case now.Link && (job.Rule == ruleLink || now.Verdict != ""):
		return 0, e.end(wire.UpdateRolledBack, job.Rule, job.Text, true)
	case e.stay() >= time.Duration(job.Confirm.Timeout)*time.Second:
		return 0, e.end(wire.UpdateRolledBack, job.Rule, job.Text+" The release before can't reach the fleet either, so it may be tried again.", false)
	}
	return e.cfg.Look, nil
}
