package update

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// Status is what people may know of the engine.
type Status struct {
	State    State         `json:"state"`
	Now      *wire.Update  `json:"now,omitempty"`      // the update under way
	Progress *Progress     `json:"progress,omitempty"` // while it installs
	Problem  string        `json:"problem,omitempty"`  // why the last step or look did not work
	Next     time.Duration `json:"next,omitempty"`     // until the next look, in nanoseconds; while idle
	Auto     bool          `json:"auto"`
	Asked    bool          `json:"asked,omitempty"` // Apply was called and nothing was found or begun yet
	Budget   int64         `json:"budget"`          // bytes for one update
	Last     *wire.Update  `json:"last,omitempty"`
	Blocked  []Block       `json:"blocked,omitempty"`
}

// Status returns the present state.
func (e *Engine) Status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.record
	s := Status{State: r.State, Auto: e.cfg.Auto, Asked: e.asked, Budget: e.cfg.Budget, Blocked: slices.Clone(r.Blocked)}
	if r.Now != nil {
		m := r.Now.message(r.State)
		s.Now, s.Budget = &m, r.Now.Budget
	}
	if r.State == Installing && e.progress.Image != "" {
		p := e.progress
		s.Progress = &p
	}
	switch {
	case e.fault != nil:
		s.Problem = e.fault.Error()
	case e.missed != nil:
		s.Problem = e.missed.Error()
	}
	if r.State == Idle && (e.cfg.Auto || e.asked) {
		s.Next = max(0, e.due-e.cfg.Uptime())
	}
	if len(r.History) > 0 {
		last := r.History[0]
		s.Last = &last
	}
	return s
}

// History returns the outcomes of updates, the last one first.
func (e *Engine) History() []wire.Update {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.record.History)
}

// Trial says whether what runs is on trial, as the boot loader has it: the next boot
// leaves it. A device on which nothing can be installed has no trials.
func (e *Engine) Trial(ctx context.Context) (bool, error) {
	slots, err := e.cfg.Installer.Slots(ctx)
	var refused *policy.Refusal
	if errors.As(err, &refused) && refused.Rule == "no-update" {
		return false, nil
	}
	return slots.Trial, err
}

// Found is the answer of Check.
type Found struct {
	Running string       `json:"running"`           // version
	Release string       `json:"release,omitempty"` // latest version that is above it; empty: none
	Notes   string       `json:"notes,omitempty"`
	Epoch   uint64       `json:"epoch,omitempty"`
	Images  int64        `json:"image_bytes,omitempty"` // all images together; what differs is fetched
	Refused string       `json:"refused,omitempty"`     // why this device must not install it
	Blocked bool         `json:"blocked,omitempty"`     // it failed before: only Apply installs it
	Job     *wire.Update `json:"now,omitempty"`         // an update is under way: nothing else was looked at
}

// Check looks at the repository now, and changes nothing.
func (e *Engine) Check(ctx context.Context) (Found, error) {
	if s := e.Status(); s.Now != nil {
		return Found{Running: s.Now.From, Release: s.Now.Release, Epoch: s.Now.Epoch, Job: s.Now}, nil
	}
	offer, err := e.choose(ctx, true)
	if err != nil {
		return Found{}, err
	}
	if offer == nil {
		slots, err := e.cfg.Installer.Slots(ctx)
		return Found{Running: slots.Version}, err
	}
	f := Found{Running: offer.slots.Version, Release: offer.version, Blocked: e.blocked(offer)}
	if offer.Refused != nil {
		f.Refused = offer.Refused.Error()
	}
	if r := offer.Release; r != nil {
		f.Notes, f.Epoch = r.Notes, r.Epoch
		for _, image := range offer.images() {
			f.Images += image.Size
		}
	}
	return f, nil
}

// Apply has the engine look at once and install what it finds, also a release that
// failed before. budget, in bytes, takes the place of the configured one for this
// update if it is larger. It does not wait.
func (e *Engine) Apply(budget int64) {
	e.mu.Lock()
	e.asked, e.unblock, e.extra = true, true, budget
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
}
