package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/gatewarden/gatewarden/agent"
	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/internal/bench/rig"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// patience is how long the lab waits for anything that takes no time by itself.
const patience = 30 * time.Second

// errNoTPM: there is no emulator to measure with.
var errNoTPM = errors.New("swtpm is not installed: make setup")

// lab is a fleet with one gateway whose TPM commands are listed.
type lab struct {
	dir     string
	fleet   *rig.Fleet
	gateway *rig.Gateway
	power   *tpmtest.Power
	tap     *rig.Tap
}

func newLab(ctx context.Context) (*lab, error) {
	if _, err := exec.LookPath("swtpm"); err != nil {
		return nil, errNoTPM
	}
	dir, err := os.MkdirTemp("", "gwbench") // short: sockets live in it
	if err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	l := &lab{dir: dir}
	if err := l.open(ctx); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *lab) open(ctx context.Context) error {
	machine, err := tpmtest.Manufacture(ctx, filepath.Join(l.dir, "machine"))
	if err != nil {
		return err
	}
	if l.power, err = machine.PowerOn(ctx); err != nil {
		return err
	}
	if l.fleet, err = rig.StartFleet(l.dir, nil); err != nil {
		return err
	}
	if l.gateway, err = rig.Boot(ctx, filepath.Join(l.dir, "gateway"), l.fleet.Trust(), l.power); err != nil {
		return err
	}
	l.tap, err = rig.NewTap(filepath.Join(l.dir, "tap.sock"), l.power.Socket)
	l.gateway.Settings.TPM = "unix:" + filepath.Join(l.dir, "tap.sock")
	return err
}

func (l *lab) close() {
	if l.tap != nil {
		_ = l.tap.Close()
	}
	if l.gateway != nil {
		_ = l.gateway.Close()
	}
	if l.fleet != nil {
		_ = l.fleet.Close()
	}
	if l.power != nil {
		_ = l.power.Kill()
	}
	os.RemoveAll(l.dir)
}

// running is an agent in this process.
type running struct {
	*agent.Agent
	stop  context.CancelFunc
	ended chan error
}

// start opens an agent and runs it until end.
func (l *lab) start(ctx context.Context) (*running, error) {
	a, err := agent.New(ctx, l.gateway.Settings, agent.Build{Version: "bench", Time: time.Unix(1, 0)}, rig.Quiet())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &running{Agent: a, stop: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- a.Run(ctx) }()
	return r, nil
}

func (r *running) end() error {
	r.stop()
	return <-r.ended
}

// settled says what is missing until the agent was judged after since and the
// fleet has acknowledged all that it said.
func settled(s local.Status, since time.Time) error {
	switch {
	case !s.Link.Connected:
		return fmt.Errorf("not connected: %s; %s; %s", s.Phase, s.Problem, s.Link.LastError)
	case s.Verdict == nil || s.Verdict.Issued.Before(since):
		return errors.New("no verdict")
	case s.Outbox.Pending > 0:
		return fmt.Errorf("%d messages wait", s.Outbox.Pending)
	case len(s.Health.Findings) == 0 || s.Health.Findings[0].Summary == "not checked yet":
		return errors.New("no health report")
	}
	return nil
}

// enrol lets the gateway in, with an agent in this process that ends afterwards.
func (l *lab) enrol(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := l.start(ctx)
	if err != nil {
		return err
	}
	if err := l.admit(ctx, r.Device()); err != nil {
		return errors.Join(err, r.end())
	}
	err = rig.Await(ctx, "enrol", func() error { return settled(r.Status(), time.Time{}) })
	return errors.Join(err, r.end())
}

func (l *lab) admit(ctx context.Context, device string) error {
	if err := l.fleet.Approve(ctx, device); err != nil {
		return err
	}
	l.gateway.Device = device
	return nil
}

// process runs the device binary as the service manager would.
func (l *lab) process(ctx context.Context, binary string) (*exec.Cmd, error) {
	config := filepath.Join(l.dir, "agent.toml")
	s := l.gateway.Settings
	text := fmt.Sprintf("state = %q\ntrust = %q\nsocket = %q\nhelper = %q\ntpm = %q\n[identity]\nmodel = %q\n[update]\ninterval = %q\n",
		s.State, s.Trust, s.Socket, s.Helper, s.TPM, s.Identity.Model, time.Duration(s.Update.Interval))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, binary, "agent", "--config", config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said strings.Builder
	cmd.Stderr = &said
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start agent: %w", err)
	}
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := rig.Await(wait, "agent connects", func() error {
		status, err := local.Get(wait, s.Socket, false)
		if err != nil {
			return err
		}
		return settled(status, began)
	})
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, fmt.Errorf("%w\n%s", err, said.String())
	}
	return cmd, nil
}
