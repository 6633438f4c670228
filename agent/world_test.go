package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent"
	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/internal/bench/rig"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

const patience = 2 * time.Minute // a loaded machine takes its time

// world is a fleet server and one gateway without its agent.
type world struct {
	fleet   *rig.Fleet
	gateway *rig.Gateway
	machine *tpmtest.Machine
	power   *tpmtest.Power
}

func newWorld(t *testing.T) *world {
	t.Helper()
	machine, power := tpmtest.Start(t)
	dir := shortDir(t)
	fleet, err := rig.StartFleet(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fleet.Close() })
	gateway, err := rig.Boot(t.Context(), filepath.Join(dir, "gateway"), fleet.Trust(), power)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{fleet: fleet, gateway: gateway, machine: machine, power: power}
	t.Cleanup(func() { w.gateway.Close() })
	return w
}

// shortDir is a folder whose path leaves room for the names of sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func build() agent.Build {
	return agent.Build{Version: "test", Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
}

// running is an agent at work.
type running struct {
	*agent.Agent
	stop  context.CancelFunc
	ended chan error
}

// run starts an agent; it ends with the test, or with end.
func (w *world) run(t *testing.T, b agent.Build) *running {
	t.Helper()
	a, err := agent.New(t.Context(), w.gateway.Settings, b, rig.Quiet())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{Agent: a, stop: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- a.Run(ctx) }()
	t.Cleanup(func() { r.end(t) })
	return r
}

func (r *running) end(t *testing.T) {
	t.Helper()
	if r.stop == nil {
		return
	}
	r.stop()
	r.stop = nil
	if err := <-r.ended; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// await polls the status until ok returns nil.
func (r *running) await(t *testing.T, ok func(local.Status) error) local.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var s local.Status
	err := rig.Await(ctx, "wait for the agent", func() error {
		s = r.Status()
		return ok(s)
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// well says what is missing to a device that is connected, trusted since then and
// has nothing left to say.
func well(since time.Time) func(local.Status) error {
	return func(s local.Status) error {
		switch {
		case !s.Link.Connected:
			return fmt.Errorf("not connected: %s; %s; %s", s.Phase, s.Problem, s.Link.LastError)
		case s.Verdict == nil || s.Verdict.Issued.Before(since):
			return errors.New("no verdict")
		case s.Verdict.Grade != "trusted":
			return fmt.Errorf("%s: %s", s.Verdict.Grade, s.Verdict.Explanation)
		case s.Outbox.Pending > 0:
			return fmt.Errorf("%d messages wait", s.Outbox.Pending)
		}
		return nil
	}
}

// enrolled runs an agent, lets it in and waits until all is well.
func (w *world) enrolled(t *testing.T, b agent.Build) *running {
	t.Helper()
	began := time.Now()
	r := w.run(t, b)
	w.approve(t, r.Device())
	r.await(t, well(began))
	return r
}

func (w *world) approve(t *testing.T, device string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := w.fleet.Approve(ctx, device); err != nil {
		t.Fatal(err)
	}
}
