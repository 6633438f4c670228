package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/gatewarden/gatewarden/internal/wire"
)

// Config of a Tracker. Checks, Now and Log are required.
type Config struct {
	Checks []Check
	Now    func() time.Time // stamps wire.Finding.Since
	Log    *slog.Logger
	// Timeout ends one run of one check; 0 means 10 s.
	Timeout time.Duration
	// Grid is what Every of each check is rounded to, so that one wakeup serves
	// several checks; 0 means a minute.
	Grid time.Duration
	// OnChange, if set, is called from Run after the first round and after every
	// round in which the status of a check changed. A changed summary alone does
	// not call it: Report has it.
	OnChange func(Report)
}

// Tracker runs checks and remembers what they found. Safe for concurrent use.
type Tracker struct {
	config Config
	probes []*probe // by name

	mu       sync.Mutex
	findings []wire.Finding // parallel to probes
}

// NewTracker checks c and returns a Tracker whose findings are all unknown.
func NewTracker(c Config) (*Tracker, error) {
	if len(c.Checks) == 0 || c.Now == nil || c.Log == nil || c.Timeout < 0 || c.Grid < 0 {
		return nil, errors.New("health: incomplete configuration")
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.Grid == 0 {
		c.Grid = time.Minute
	}
	t := &Tracker{config: c}
	checks := slices.Clone(c.Checks)
	sort.Slice(checks, func(a, b int) bool { return checks[a].Name < checks[b].Name }) // small: no copy of the algorithm for this type
	for i, check := range checks {
		if check.Name == "" || check.Every <= 0 || check.Run == nil {
			return nil, fmt.Errorf("health: check %q is incomplete", check.Name)
		}
		if i > 0 && checks[i-1].Name == check.Name {
			return nil, fmt.Errorf("health: two checks are named %q", check.Name)
		}
		check.Every = max(check.Every.Round(c.Grid), c.Grid)
		t.probes = append(t.probes, &probe{check: check, timeout: c.Timeout, log: c.Log})
		t.findings = append(t.findings, wire.Finding{Check: check.Name, Status: Unknown, Summary: "not checked yet", Since: c.Now()})
	}
	return t, nil
}

// Report returns the latest findings.
func (t *Tracker) Report() Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	return reportOf(slices.Clone(t.findings))
}

// Run checks at once, then whenever a check is due, until ctx ends. It returns
// nil then: ending is no error.
func (t *Tracker) Run(ctx context.Context) error {
	left := make([]time.Duration, len(t.probes)) // until due
	timer := time.NewTimer(0)
	defer timer.Stop()
	for first := true; ; first = false {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		changed := t.round(ctx, left)
		if ctx.Err() != nil {
			return nil
		}
		if (changed || first) && t.config.OnChange != nil {
			t.config.OnChange(t.Report())
		}
		timer.Reset(t.rest(left))
	}
}

// round runs what is due and says whether any status changed.
func (t *Tracker) round(ctx context.Context, left []time.Duration) (changed bool) {
	for i, p := range t.probes {
		if left[i] > 0 {
			continue
		}
		left[i] = p.check.Every
		status, summary := p.run(ctx)
		if ctx.Err() != nil {
			return false // what a check says because it was interrupted is no finding
		}
		changed = t.record(i, status, summary) || changed
	}
	return changed
}

// rest returns the sleep before the next round and takes it off left.
// The spans are relative, so that a jump of the clock starves no check.
func (t *Tracker) rest(left []time.Duration) time.Duration {
	sleep := slices.Min(left)
	for i := range left {
		left[i] -= sleep
	}
	return sleep
}

// record stores a finding and says whether its status changed.
func (t *Tracker) record(i int, status, summary string) (changed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := &t.findings[i]
	changed = f.Status != status
	if changed {
		t.config.Log.Info("health changed", "check", f.Check, "from", f.Status, "to", status, "summary", summary)
		f.Since = t.config.Now()
	}
	f.Status, f.Summary = status, summary
	return changed
}
