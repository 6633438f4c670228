package update

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/update/release"
)

// State is what the engine is about to do, or does. It is kept by its name.
type State string

// The states. Those from fetching on belong to one release.
const (
	Idle        State = "idle"         // nothing to do before the next look
	Checking    State = "checking"     // looks for a release that this device may install
	Fetching    State = "fetching"     // gets the indexes of its images
	Installing  State = "installing"   // gets the missing chunks and has the spare slot written
	Installed   State = "installed"    // the spare slot is whole; notes how the device does now
	Trying      State = "trying"       // has the spare slot booted once
	Confirming  State = "confirming"   // runs on trial: compares with before
	Committing  State = "committing"   // keeps it
	RollingBack State = "rolling-back" // goes back to the release before
	Reporting   State = "reporting"    // hands over the outcome
)

// Record is what survives a power cut.
type Record struct {
	Version int           `json:"v"` // 1
	State   State         `json:"state"`
	Now     *Job          `json:"now,omitempty"`     // the update under way
	Blocked []Block       `json:"blocked,omitempty"` // not to be tried again unasked
	History []wire.Update `json:"history,omitempty"` // outcomes, the last one first
	Refused string        `json:"refused,omitempty"` // what was last reported of metadata that does not verify
}

// Job is one update.
type Job struct {
	ID      string          `json:"id"`
	Target  string          `json:"target"` // path in the repository
	Digest  release.Digest  `json:"digest"` // of its custom metadata
	Product string          `json:"product"`
	Channel string          `json:"channel"`
	Release string          `json:"release"` // version
	From    string          `json:"from"`    // version that ran before
	Old     string          `json:"old"`     // slot that ran before
	Epoch   uint64          `json:"epoch"`
	Confirm release.Confirm `json:"confirm"`
	Began   time.Time       `json:"began"`
	Budget  int64           `json:"budget"`           // bytes
	Fetched int64           `json:"fetched"`          // bytes
	Chunks  int             `json:"chunks"`           // fetched
	Trials  int             `json:"trials"`           // how often it was to be booted
	Before  *Condition      `json:"before,omitempty"` // the trial
	Since   time.Duration   `json:"since,omitempty"`  // uptime when confirming began, in nanoseconds
	Block   bool            `json:"block,omitempty"`  // the release failed for its own reasons
	Outcome string          `json:"outcome,omitempty"`
	Rule    string          `json:"rule,omitempty"`
	Text    string          `json:"text,omitempty"`
	Pending bool            `json:"pending,omitempty"`
	Ended   time.Time       `json:"ended,omitzero"`
}

// Block keeps a release that failed for its own reasons from being tried again.
type Block struct {
	Target string         `json:"target"`
	Digest release.Digest `json:"digest"` // of its custom metadata: signed anew with another, it is another
	Rule   string         `json:"rule"`
}

// Files in Dir. Indexes are next-KIND.caibx and running-KIND.caibx.
const (
	recordFile    = "record.json"
	releaseFile   = "next.json"    // custom metadata of the release under way
	runningFile   = "running.json" // of the last one that was committed
	recordVersion = 1
)

func (e *Engine) path(name string) string { return filepath.Join(e.cfg.Dir, name) }

func indexFile(prefix, kind string) string { return prefix + "-" + kind + ".caibx" }

// load reads the record. One of a later format is an error: to begin anew could
// lose an outcome that the later release knows how to report.
func (e *Engine) load() error {
	if err := e.cfg.FS.MkdirAll(e.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	var version struct {
		Version int `json:"v"`
	}
	data, err := e.cfg.FS.ReadFile(e.path(recordFile), maxRecord)
	if err == nil {
		err = looseJSON(data, &version)
	}
	r := Record{}
	if err == nil {
		if version.Version > recordVersion {
			return fmt.Errorf("record has format %d, this release knows up to %d", version.Version, recordVersion)
		}
		err = decodeRecord(data, &r)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r = Record{Version: recordVersion, State: Idle}
	case errors.Is(err, fsx.ErrDamaged):
		e.log.Error("update record is damaged; a new one is begun", "cause", err)
		r = Record{Version: recordVersion, State: Idle}
	case err != nil:
		return fmt.Errorf("read record: %w", err)
	}
	e.record, e.since = r, e.cfg.Uptime()
	return nil
}

// check refuses a record that no engine wrote.
func (r *Record) check() error {
	if r.Version != recordVersion {
		return fmt.Errorf("v is %d", r.Version)
	}
	switch r.State {
	case Idle, Checking:
		return nil
	case Fetching, Installing, Installed, Trying, Confirming, Committing, RollingBack, Reporting:
	default:
		return fmt.Errorf("no state is called %.40q", r.State)
	}
	if r.Now == nil || r.Now.ID == "" || r.Now.Old == "" {
		return fmt.Errorf("state %s has no release", r.State)
	}
	return nil
}

// clone is deep as far as anything is ever changed in place.
func (r *Record) clone() Record {
	c := *r
	if r.Now != nil {
		job := *r.Now
		c.Now = &job
	}
	c.Blocked = append([]Block(nil), r.Blocked...)
	c.History = append([]wire.Update(nil), r.History...)
	return c
}

// change makes an edit durable; if that fails nothing has changed.
func (e *Engine) change(edit func(*Record)) error {
	e.mu.Lock()
	next := e.record.clone()
	e.mu.Unlock()
	edit(&next)
	if err := e.cfg.FS.WriteJSON(e.path(recordFile), next, 0o600); err != nil {
		return fmt.Errorf("record update: %w", err)
	}
	e.mu.Lock()
	e.record = next
	e.mu.Unlock()
	return nil
}

// enter records the next state before anything is done in it, and tells.
func (e *Engine) enter(s State, edit func(*Job)) error {
	err := e.change(func(r *Record) {
		r.State = s
		if r.Now != nil && edit != nil {
			edit(r.Now)
		}
	})
	if err != nil {
		return err
	}
	e.entered(s)
	return nil
}

// entered starts the state's time and tells of progress, once.
func (e *Engine) entered(s State) {
	job := e.job()
	now := wire.Update{ID: job.ID, State: string(s)}
	e.mu.Lock()
	e.since, e.progress = e.cfg.Uptime(), Progress{}
	known := e.told == now
	e.told = now
	e.mu.Unlock()
	e.log.Info("update goes on", "state", s, "release", job.Release)
	switch s {
	case Installing, Trying, Confirming, RollingBack:
	default:
		return
	}
	if known {
		return
	}
	if err := e.cfg.Report(job.message(s)); err != nil {
		e.log.Warn("report progress", "error", err)
	}
}

// job returns a copy of the update under way.
func (e *Engine) job() Job {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.record.Now == nil {
		return Job{}
	}
	return *e.record.Now
}

func (e *Engine) state() State {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.record.State
}

// message is what the fleet learns of a job.
func (j *Job) message(s State) wire.Update {
	return wire.Update{
		Version: 1, ID: j.ID, State: string(s), Outcome: j.Outcome, Rule: j.Rule, Text: j.Text, Product: j.Product, Channel: j.Channel,
		Release: j.Release, From: j.From, Epoch: j.Epoch, Pending: j.Pending, Chunks: j.Chunks, Fetched: j.Fetched, Attempts: j.Trials,
		Began: j.Began, Ended: j.Ended,
	}
}
