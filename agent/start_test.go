package agent_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gatewarden/gatewarden/agent"
	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/internal/bench/rig"
)

// silentTPM takes commands and never answers.
func silentTPM(t *testing.T) string {
	t.Helper()
	path := filepath.Join(shortDir(t), "tpm.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return "unix:" + path
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// otherTrust is a folder with the first fleet's fleet.json and other operators.
func otherTrust(t *testing.T, w *world, operators string) string {
	t.Helper()
	dir := t.TempDir()
	raw, err := os.ReadFile(filepath.Join(w.fleet.Trust(), "fleet.json"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "fleet.json"), string(raw))
	write(t, filepath.Join(dir, "operators.json"), operators)
	return dir
}

func TestAgentThatCannotStartSaysWhyAndLeavesNothingBehind(t *testing.T) {
	w := newWorld(t)
	before, err := w.power.Handles()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "in the way")
	const foreign = `{"v":1,"issued":"2026-01-01T00:00:00Z","fleet":"other","people":[],"verbs":{}}`
	for name, c := range map[string]struct {
		change func(*agent.Settings)
		want   []string
	}{
		"TPM absent":                 {func(s *agent.Settings) { s.TPM = "/dev/nonexistent" }, []string{"no TPM", "/dev/nonexistent", "hint: `tpm` in agent.toml"}},
		"TPM silent":                 {func(s *agent.Settings) { s.TPM = silentTPM(t) }, []string{"TPM does not answer", "power cycle"}},
		"TPM is no device":           {func(s *agent.Settings) { s.TPM = file }, []string{"no character device", "name a TPM device such as /dev/tpmrm0"}},
		"TPM emulator off":           {func(s *agent.Settings) { s.TPM = "unix:" + file }, []string{"is the TPM emulator running?"}},
		"state folder is a file":     {func(s *agent.Settings) { s.State = file }, []string{"make state folder", "hint: `state` in agent.toml must be a folder that this user may write"}},
		"state folder is unwritable": {func(s *agent.Settings) { s.State = "/proc/gatewarden" }, []string{"/proc/gatewarden", "hint: `state` in agent.toml"}},
		"no trust documents":         {func(s *agent.Settings) { s.Trust = "/nonexistent" }, []string{"read trust document", "hint: install the fleet's fleet.json there"}},
		"trust documents of two":     {func(s *agent.Settings) { s.Trust = otherTrust(t, w, foreign) }, []string{`operators.json is of fleet "other", fleet.json of "rig"`}},
		"trust document is damaged":  {func(s *agent.Settings) { s.Trust = otherTrust(t, w, `{"v":1,`) }, []string{"operators.json: "}},
		"state of a later release":   {func(s *agent.Settings) { write(t, filepath.Join(s.State, "format.json"), `{"format": 99}`) }, []string{"format 99", "install the release that wrote it"}},
		"outbox of another process":  {func(s *agent.Settings) { hold(t, filepath.Join(s.State, "outbox.db")) }, []string{"open outbox", "another process holds it"}},
	} {
		t.Run(name, func(t *testing.T) {
			none := goleak.IgnoreCurrent()
			s := w.gateway.Settings
			s.State = filepath.Join(shortDir(t), "state")
			c.change(&s)
			wait := patience
			if name == "TPM silent" || strings.HasPrefix(name, "outbox") { // which are waited for
				wait = 2 * time.Second
			}
			err := startWithin(t, s, wait)
			// A machine that stalls may not come to that in time.
			for ; !strings.Contains(err.Error(), c.want[0]) && wait < patience; wait *= 2 {
				err = startWithin(t, s, 2*wait)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			if lines := bytes.Count([]byte(err.Error()), []byte("\n")); lines > 1 {
				t.Errorf("more than a sentence and a hint: %q", err)
			}
			goleak.VerifyNone(t, none)
		})
	}
	after, err := w.power.Handles()
	if err != nil || len(after) != len(before) {
		t.Errorf("the TPM holds %x, before %x, error %v", after, before, err)
	}
}

// startWithin is a start that can't succeed.
func startWithin(t *testing.T, s agent.Settings, wait time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	_, err := agent.New(ctx, s, build(), rig.Quiet())
	if err == nil {
		t.Fatal("it started")
	}
	return err
}

// hold makes a file and locks it, as another process would.
func hold(t *testing.T, path string) {
	t.Helper()
	write(t, path, "")
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
}

func TestSecondAgentOnTheSameSocketSaysSo(t *testing.T) {
	w := newWorld(t)
	w.run(t, build()).await(t, answers(w.gateway.Settings.Socket))
	s := w.gateway.Settings
	s.State = filepath.Join(shortDir(t), "state")
	a, err := agent.New(t.Context(), s, build(), rig.Quiet())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "another agent answers on "+s.Socket) {
		t.Errorf("got %v", err)
	}
}

func TestSocketThatCannotBeMadeNamesTheKey(t *testing.T) {
	w := newWorld(t)
	w.gateway.Settings.Socket = "/proc/gatewarden/agent.sock"
	a, err := agent.New(t.Context(), w.gateway.Settings, build(), rig.Quiet())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "hint: `socket` in agent.toml names it") {
		t.Errorf("got %v", err)
	}
}

func TestTaskThatFailsEndsRunWithItsError(t *testing.T) {
	w := newWorld(t)
	none := goleak.IgnoreCurrent()
	a, err := agent.New(t.Context(), w.gateway.Settings, build(), rig.Quiet())
	if err != nil {
		t.Fatal(err)
	}
	// One link runs already, so that of Run fails at once.
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.RunLink(ctx) }()
	(&running{Agent: a}).await(t, func(s local.Status) error {
		if s.Link.LastError == "" {
			return errors.New("the link made no attempt yet")
		}
		return nil
	})
	if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "run link: it runs already") {
		t.Errorf("Run: %v", err)
	}
	cancel()
	<-ended
	goleak.VerifyNone(t, none)
}

func TestAgentTellsTheServiceManagerThatItIsReadyAndAlive(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(shortDir(t), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "100000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	r := w.run(t, build())
	var said []string
	read := func() string {
		buf := make([]byte, 100)
		if err := manager.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		n, err := manager.Read(buf)
		if err != nil {
			t.Fatalf("after %q: %v", said, err)
		}
		said = append(said, string(buf[:n]))
		return string(buf[:n])
	}
	if got := read(); got != "READY=1" {
		t.Errorf("first %q", got)
	}
	if got := read(); got != "WATCHDOG=1" {
		t.Errorf("then %q", got)
	}
	if _, err := local.Get(t.Context(), w.gateway.Settings.Socket, false); err != nil {
		t.Errorf("ready without answering: %v", err)
	}
	// A TPM that is gone: the watchdog is fed no more, so that a restart can help.
	if err := w.power.Kill(); err != nil {
		t.Fatal(err)
	}
	for { // what was on its way
		if err := manager.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := manager.Read(make([]byte, 100)); err != nil {
			break
		}
	}
	if s := r.Status(); s.Device == "" {
		t.Error("no status without a TPM")
	}
}
