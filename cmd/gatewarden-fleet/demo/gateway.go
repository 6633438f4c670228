package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// gateway is one machine: TPM, boot software, agent and helper.
type gateway struct {
	name    string
	dir     string
	run     string // folder of the sockets: their paths must be short
	binary  string
	chip    *tpmtest.Machine
	machine machine
	id      string // once known
	slot    string // that runs
	updates bool   // it installs what the owner releases
	booted  time.Time

	power  *tpmtest.Power
	helper *process
	agent  *process
}

// newGateway manufactures the machine and installs the software with the trust
// documents, as an integrator would.
func newGateway(ctx context.Context, name, dir, run, binary, trust string) (*gateway, error) {
	g := &gateway{name: name, dir: dir, run: run, binary: binary}
	var err error
	if g.chip, err = tpmtest.Manufacture(ctx, filepath.Join(dir, "chip")); err != nil {
		return nil, err
	}
	if g.machine, err = newMachine(filepath.Join(dir, "disk"), newSoftware(version1, 1, 1)); err != nil {
		return nil, fmt.Errorf("install release %s: %w", version1, err)
	}
	for _, sub := range []string{"state", "helper", "boot"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// configure writes agent.toml for the slot that runs.
func (g *gateway) configure(trust string) error {
	settings := fmt.Sprintf(`# demo: everything that is not the default
state = %q
trust = %q
socket = %q
helper = %q
tpm = %q
[identity]
model = %q
hostname = %q
[health]
interval = "2s"
services = %q
[update]
auto = %t
interval = "1s"
`, g.path("state"), trust, g.agentSocket(), g.helperSocket(), "unix:"+g.tpmSocket(), model, g.name, g.machine.health(), g.updates)
	return os.WriteFile(g.path("agent.toml"), []byte(settings), 0o600)
}

func (g *gateway) path(name string) string { return filepath.Join(g.dir, name) }
func (g *gateway) agentSocket() string     { return filepath.Join(g.run, g.name+"-agent.sock") }
func (g *gateway) helperSocket() string    { return filepath.Join(g.run, g.name+"-helper.sock") }
func (g *gateway) tpmSocket() string       { return filepath.Join(g.run, g.name+"-tpm.sock") }

// rebootFile is what the helper makes where a real one has systemd reboot.
func (g *gateway) rebootFile() string { return g.path("reboot") }

// boot switches the machine on: TPM, measurements, then helper and agent. words are
// added to the kernel command line.
func (g *gateway) boot(ctx context.Context, words, trust string) error {
	var err error
	if g.power, err = g.chip.PowerOn(ctx); err != nil {
		return err
	}
	// The agent's configuration names the TPM by a path that is always the same. What
	// the agent noted for the last boot alone is in a /run elsewhere.
	for _, path := range []string{g.tpmSocket(), g.agentSocket() + ".locked"} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := os.Symlink(g.power.Socket, g.tpmSocket()); err != nil {
		return err
	}
	if g.slot, err = g.machine.boot(ctx, g.power, words, g.path("boot/eventlog")); err != nil {
		return fmt.Errorf("boot %s: %w", g.name, err)
	}
	if err := g.configure(trust); err != nil {
		return err
	}
	g.helper, err = start(g.name+" helper", g.path("helper.log"), g.binary, "helper",
		"--listen", g.helperSocket(), "--peer-uid", strconv.Itoa(os.Getuid()), "--trust", trust, "--state", g.path("helper"),
		"--slots", g.machine.dir, "--product-file", g.machine.productFile(), "--reboot-file", g.rebootFile(),
		"--tpm", "unix:"+g.tpmSocket(), "--event-log", g.path("boot/eventlog"), "--ima-log", g.path("boot/ima"))
	if err != nil {
		return err
	}
	g.booted = time.Now()
	g.agent, err = start(g.name+" agent", g.path("agent.log"), g.binary, "agent", "--config", g.path("agent.toml"))
	return err
}

// cut is a power cut: everything stops where it is.
func (g *gateway) cut() error {
	g.agent.end(syscall.SIGKILL)
	g.helper.end(syscall.SIGKILL)
	return g.power.Kill()
}

// shutDown ends the machine in order.
func (g *gateway) shutDown() error {
	g.agent.end(syscall.SIGTERM)
	g.helper.end(syscall.SIGTERM)
	if g.power == nil {
		return nil
	}
	return g.power.Off()
}

func (g *gateway) failed() error { return errors.Join(g.agent.failed(), g.helper.failed()) }

// status asks the agent as `gatewarden status` does.
func (g *gateway) status(ctx context.Context) (local.Status, error) {
	return local.Get(ctx, g.agentSocket(), false)
}

// awaitStatus waits until the agent's status satisfies ok.
func (g *gateway) awaitStatus(ctx context.Context, what string, ok func(local.Status) bool) (local.Status, error) {
	var last local.Status
	err := await(ctx, g.name+" "+what, func() (bool, error) {
		if err := g.failed(); err != nil {
			return false, fatal{err}
		}
		s, err := g.status(ctx)
		if err != nil {
			return false, err
		}
		last = s
		if ok(s) {
			return true, nil
		}
		if s.Problem != "" {
			err = errors.New(s.Problem)
		}
		return false, err
	})
	return last, err
}
