package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/agent/health"
	"github.com/gatewarden/gatewarden/agent/link"
	"github.com/gatewarden/gatewarden/internal/bench/rig"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const (
	growthChild  = "growth-child" // hidden argument: this process is what is measured
	warmCycles   = 4_000          // until code is mapped and the heap has its size
	healthCycles = 10_000
	storedEvery  = 50 // cycles: one fsync in so many keeps the run short
)

// growth runs the health cycles in a process of their own and returns by how many
// bytes its RSS grew, from when everything had run a few times.
func growth(ctx context.Context) (int64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	out, err := exec.CommandContext(ctx, self, growthChild).Output()
	if err != nil {
		return 0, fmt.Errorf("run health cycles: %w", err)
	}
	return strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
}

// runGrowth is the child: every real check as fast as it goes, a report for each
// cycle, some of them stored.
func runGrowth(ctx context.Context, out io.Writer) error {
	debug.SetGCPercent(25) // as the agent does
	dir, err := os.MkdirTemp("", "gwgrowth")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	outbox, err := link.OpenOutbox(filepath.Join(dir, "outbox.db"), link.Limits{Bytes: 1 << 20, Count: 100}, rig.Quiet())
	if err != nil {
		return err
	}
	cycle, err := newCycle(dir, outbox)
	if err != nil {
		return errors.Join(err, outbox.Close())
	}
	var rss [2]int64
	for i, n := range []int{warmCycles, healthCycles} {
		if err := cycle(ctx, n); err != nil {
			return errors.Join(err, outbox.Close())
		}
		debug.FreeOSMemory() // so that what is left is held, not merely uncollected
		if rss[i], err = statusField(os.Getpid(), "VmRSS"); err != nil {
			return errors.Join(err, outbox.Close())
		}
	}
	fmt.Fprintln(out, (rss[1]-rss[0])*1024)
	return outbox.Close()
}

func newCycle(dir string, outbox *link.Outbox) (func(ctx context.Context, n int) error, error) {
	now := func() time.Time { return time.Now() }
	checks, err := health.All(health.Deps{
		StateFolder: dir, EFIVars: health.DefaultEFIVars, Services: filepath.Join(dir, "services"), Now: now,
		Certificate: func() (time.Time, time.Time, bool) { return now().Add(-time.Hour), now().Add(time.Hour), true },
	})
	if err != nil {
		return nil, err
	}
	rounds := make(chan struct{}) // closed by nobody: a send is one cycle
	const grid = time.Millisecond
	for i := range checks {
		checks[i].Every = grid
	}
	run := checks[0].Run
	checks[0].Run = func(ctx context.Context) (string, string) {
		select {
		case rounds <- struct{}{}:
		case <-ctx.Done():
		}
		return run(ctx)
	}
	tracker, err := health.NewTracker(health.Config{Checks: checks, Now: now, Log: rig.Quiet(), Grid: grid})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, n int) error {
		ctx, cancel := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- tracker.Run(ctx) }()
		defer func() { <-ended }()
		defer cancel()
		for i := range n {
			select {
			case <-rounds:
			case <-ctx.Done():
				return ctx.Err()
			}
			report := tracker.Report()
			if i%storedEvery != 0 {
				continue
			}
			if err := outbox.Put(wire.KindHealth, now(), wire.Health{Version: 1, Grade: report.Grade, Findings: report.Findings}); err != nil {
				return err
			}
		}
		return nil
	}, nil
}
