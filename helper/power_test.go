package helper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/helper/client"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/helperwire"
	"github.com/gatewarden/gatewarden/update/tuf/tuftest"
)

// stride is how many steps lie between two that are tried: all of them only with
// GATEWARDEN_LONG.
func stride() int {
	if os.Getenv("GATEWARDEN_LONG") != "" {
		return 1
	}
	return 10
}

// goal is the release that a machine is on its way to.
func goal() *offer {
	o := newOffer("1.1.0", content(2))
	o.Epoch = 2
	return o
}

// advance does what an engine does next, by the helper's account alone. It returns
// whether the machine is to be switched off and on, and whether all is done.
func (m *slotted) advance(c *client.Client, o *offer) (reboot, done bool, err error) {
	slots, err := c.Slots(m.t.Context())
	if err != nil {
		return false, false, err
	}
	if err := m.sound(slots, o); err != nil {
		m.t.Fatal(err)
	}
	spare := slots.Slots["b"]
	switch {
	case slots.Running == "b" && (slots.Trial || slots.Epoch < o.Epoch):
		return false, false, c.Commit(m.t.Context(), o.Version)
	case slots.Running == "b":
		return false, true, nil
	case spare.State == helperwire.SlotComplete || spare.State == helperwire.SlotTrying:
		return true, false, c.Try(m.t.Context(), o.Version)
	}
	sent, err := m.install(c, o)
	m.sent += sent
	return false, false, err
}

// sound checks what must hold at any time: what runs is whole, and what was
// reached is kept.
func (m *slotted) sound(slots helperwire.Slots, o *offer) error {
	version, image := "1.0.0", content(1)
	if slots.Running == "b" {
		version, image = o.Version, o.images["rootfs"]
	}
	data, err := os.ReadFile(m.image(slots.Running, "rootfs"))
	switch {
	case err != nil:
		return err
	case slots.Version != version || !bytes.Equal(data, image):
		return fmt.Errorf("slot %s runs as %s, and does not hold it whole", slots.Running, slots.Version)
	case slots.Epoch < m.epoch:
		return fmt.Errorf("epoch %d fell from %d", slots.Epoch, m.epoch)
	case m.kept && (slots.Running != "b" || slots.Trial):
		return errors.New("a commit that was answered did not last")
	}
	m.epoch = slots.Epoch
	m.kept = m.kept || slots.Running == "b" && !slots.Trial
	return nil
}

// TestCutAtEveryStep: from some step of the helper on nothing reaches the disk any
// more, then the power comes back. Whatever step it was, one of the two releases
// boots, whole; the way to the new one goes on; no epoch and no metadata falls.
func TestCutAtEveryStep(t *testing.T) {
	t.Parallel()
	steps := m0Steps(t)
	t.Logf("%d steps in the life of an update", steps)
	if steps < 80 {
		t.Fatalf("only %d steps are seen: the sweep is blind", steps)
	}
	for n := 1; n <= steps; n += max(1, stride()/2) {
		m := newSlotted(t)
		o := goal()
		m.publish(o)
		count := 0
		m.setFS(&fsx.FS{Hook: func(string, string) error {
			if count++; count >= n {
				return errors.New("the power is cut")
			}
			return nil
		}})
		m.live(o, true)
		m.setFS(&fsx.FS{})
		m.powerOn()
		m.live(o, false)
		os.RemoveAll(m.dir)
	}
}

// m0Steps counts the steps of a life that nothing disturbs.
func m0Steps(t *testing.T) (steps int) {
	t.Helper()
	m := newSlotted(t)
	o := goal()
	m.publish(o)
	m.setFS(&fsx.FS{Hook: func(string, string) error { steps++; return nil }})
	m.live(o, false)
	return steps
}

// live runs the machine until it has the release; with fragile, also until the
// first error.
func (m *slotted) live(o *offer, fragile bool) {
	m.t.Helper()
	for range 20 {
		c := m.start()
		if c == nil && fragile {
			return
		}
		reboot, done, err := m.advance(c, o)
		m.shut()
		switch {
		case err != nil && fragile, done:
			return
		case err != nil:
			m.t.Fatal(err)
		case reboot:
			m.powerOn()
		}
	}
	m.t.Fatal("it never gets to the release")
}

// start is run for a helper that may fail to start: nil then.
func (m *slotted) start() *client.Client {
	m.t.Helper()
	path := filepath.Join(m.dir, "helper.sock")
	l, err := Listen(path, m.config.PeerUID)
	m.must(err)
	m.config.Listener = l
	ctx, cancel := context.WithCancel(context.Background())
	s, err := open(ctx, m.config)
	if err != nil {
		cancel()
		l.Close()
		return nil
	}
	ended := make(chan error, 1)
	go func() { ended <- s.serve(ctx) }()
	m.stop, m.ended = cancel, ended
	return client.New(path)
}

func (m *slotted) shut() {
	m.t.Helper()
	m.halt()
	m.config.Listener.Close()
}

const (
	killVar = "GATEWARDEN_HELPER_KILL_AT"
	dirVar  = "GATEWARDEN_HELPER_DIR"
	bootVar = "GATEWARDEN_HELPER_BOOT"
)

// TestMain is the helper of TestKillAtEveryStep when told so: a process of its
// own that dies before its Nth step.
func TestMain(m *testing.M) {
	at, err := strconv.Atoi(os.Getenv(killVar))
	if err != nil {
		os.Exit(m.Run())
	}
	if err := child(at, os.Getenv(dirVar), os.Getenv(bootVar)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	os.Exit(0)
}

func child(at int, dir, bootID string) error {
	n := 0
	files := &fsx.FS{Hook: func(string, string) error {
		if n++; n == at {
			return syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		return nil
	}}
	m := &slotted{machine: &machine{dir: dir, now: tuftest.Epoch(), synced: true, boots: make(chan struct{}, 100)}, slots: filepath.Join(dir, "slots")}
	m.configure()
	m.config.BootID = bootID
	m.config.Updates = &Updates{Slots: m.slots, Product: filepath.Join(m.config.Trust, "product.json")}
	m.setFS(files)
	var err error
	if m.config.Listener, err = Listen(filepath.Join(dir, "helper.sock"), os.Geteuid()); err != nil {
		return err
	}
	return Run(context.Background(), m.config)
}

// TestKillAtEveryStep: the helper's process is killed before a step, in the boot
// that installs or in the one that commits. Bytes that were written stay, and
// nothing else is done: no chunk that was acknowledged is sent again.
func TestKillAtEveryStep(t *testing.T) {
	t.Parallel()
	for boot := range 2 {
		for at, kills := 1, 0; ; at += stride() {
			m := newSlotted(t)
			o := goal()
			m.publish(o)
			killed := m.liveInChildren(o, boot, at)
			m.liveInChildren(o, -1, 0)
			if m.sent > 4 {
				t.Errorf("kill at step %d of boot %d: %d chunks were taken, 4 differ", at, boot, m.sent)
			}
			os.RemoveAll(m.dir)
			if killed {
				kills++
				continue
			}
			if kills < []int{50, 10}[boot]/stride() {
				t.Errorf("only %d kills in boot %d: the sweep is blind", kills, boot)
			}
			break
		}
	}
}

// liveInChildren is live with one process for each boot, of which one is killed at
// its nth step; it ends then.
func (m *slotted) liveInChildren(o *offer, boot, at int) (killed bool) {
	m.t.Helper()
	for n := range 20 {
		if n != boot {
			m.oneBoot(o, 0)
		} else if m.oneBoot(o, at) {
			m.powerOn()
			return true
		}
		if m.kept {
			return false
		}
		m.powerOn()
	}
	m.t.Fatal("it never gets to the release")
	return false
}

// oneBoot runs one process until the machine is to reboot, or is done.
func (m *slotted) oneBoot(o *offer, at int) (killed bool) {
	m.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), killVar+"="+strconv.Itoa(at), dirVar+"="+m.dir, bootVar+"="+m.config.BootID)
	var said bytes.Buffer
	cmd.Stderr = &said
	m.must(cmd.Start())
	gone := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(gone)
	}()
	err := m.drive(o, gone)
	_ = cmd.Process.Signal(syscall.SIGTERM) // it may be gone already
	<-gone
	killed = cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
	if err != nil && !killed {
		m.t.Fatalf("helper: %v: %s", err, said.String())
	}
	return killed
}

// drive waits until the child listens, and then advances as far as one boot goes.
func (m *slotted) drive(o *offer, gone chan struct{}) error {
	c := client.New(filepath.Join(m.dir, "helper.sock"))
	for deadline := time.Now().Add(patience); ; {
		_, err := c.Info(m.t.Context())
		if err == nil {
			break
		}
		select {
		case <-gone:
			return err
		default:
		}
		if time.Now().After(deadline) {
			return err
		}
	}
	for {
		reboot, done, err := m.advance(c, o)
		if err != nil || reboot || done {
			return err
		}
	}
}
