package update

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// What a child process is told in its environment.
const (
	childVar   = "GATEWARDEN_UPDATE_CHILD" // folder of the machine whose engine it is
	urlVar     = "GATEWARDEN_UPDATE_URL"
	runningVar = "GATEWARDEN_UPDATE_RUNNING"
	killVar    = "GATEWARDEN_UPDATE_KILL" // state in which it kills itself, once
	badVar     = "GATEWARDEN_UPDATE_BAD"  // version that is unhealthy
)

// TestMain runs as the child of TestKilledInEachState when told so.
func TestMain(m *testing.M) {
	if os.Getenv(childVar) == "" {
		os.Exit(m.Run())
	}
	if err := child(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
}

// child is an agent with nothing but an engine; its outbox is a file.
func child() error {
	m := &machine{dir: os.Getenv(childVar), url: os.Getenv(urlVar), running: os.Getenv(runningVar), condition: good, budget: 1 << 30}
	if bad := os.Getenv(badVar); bad != "" {
		m.condition = unhealthy(bad)
	}
	m.log = killer{slog.DiscardHandler, os.Getenv(killVar), m.path("killed")}
	disk := &fsx.FS{}
	m.refuse = func() error { return nil }
	engine, err := m.newEngine(disk)
	if err != nil {
		return err
	}
	engine.cfg.Report = func(u wire.Update) error {
		line, err := json.Marshal(u)
		if err != nil {
			return err
		}
		return disk.Append(m.path("outbox"), append(line, '\n'), 0o600)
	}
	return engine.Run(context.Background())
}

// killer ends the process when the engine has recorded the state, before it acts.
type killer struct {
	slog.Handler
	state, mark string
}

func (k killer) Enabled(context.Context, slog.Level) bool { return true }
func (k killer) WithAttrs([]slog.Attr) slog.Handler       { return k }

func (k killer) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "state" && a.Value.String() == k.state {
			if _, err := os.Stat(k.mark); err != nil {
				_ = os.WriteFile(k.mark, nil, 0o600)
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
		}
		return true
	})
	return nil
}

func TestKilledInEachStateItGoesOn(t *testing.T) {
	for _, state := range []State{Fetching, Installing, Installed, Trying, Confirming, Committing, Reporting} {
		t.Run(string(state), func(t *testing.T) {
			t.Parallel()
			killed(t, state, "", wire.UpdateInstalled, "2.0.0")
		})
	}
	for _, state := range []State{RollingBack, Reporting} {
		t.Run("unhealthy "+string(state), func(t *testing.T) {
			t.Parallel()
			killed(t, state, "2.0.0", wire.UpdateRolledBack, "1.0.0")
		})
	}
}

func killed(t *testing.T, state State, bad, outcome, running string) {
	m := newMachine(t)
	m.publish(author("2.0.0"), m.image("2.0.0", 10))
	for range 10 {
		if m.childLife(string(state), bad) {
			break
		}
	}
	if _, err := os.Stat(m.path("killed")); err != nil {
		t.Fatalf("it was never killed in state %s", state)
	}
	m.wantOutcome(outcome, map[string]string{"2.0.0": "disk"}[bad], running)
	m.wantFetchedAgain(0)
}

// childLife is life with the engine in another process, which may be killed: then
// the service manager starts it again, in the same boot.
func (m *machine) childLife(state, bad string) (done bool) {
	m.powerOn()
	ctx, cancel := context.WithCancel(context.Background())
	end := make(chan string, 64)
	var tasks sync.WaitGroup
	tasks.Go(func() { m.runHelper(ctx, &fsx.FS{}, end) })
	defer func() {
		cancel()
		tasks.Wait()
		_ = os.Remove(m.path("helper.sock"))
	}()
	m.must(m.waitFor(func() bool { _, err := os.Stat(m.path("helper.sock")); return err == nil }))
	for range 5 {
		if exited := m.runChild(state, bad, func() bool { done = m.childDone(); return done || len(end) > 0 }); !exited {
			return done
		}
	}
	m.t.Fatal("the child dies again and again")
	return false
}

// runChild runs an engine until it dies or enough says so, and returns whether it
// died.
func (m *machine) runChild(state, bad string, enough func() bool) bool {
	m.t.Helper()
	exe, err := os.Executable()
	m.must(err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childVar+"="+m.dir, urlVar+"="+m.url, runningVar+"="+m.running, killVar+"="+state, badVar+"="+bad)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	m.must(cmd.Start())
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	for end := time.Now().Add(hung); time.Now().Before(end); time.Sleep(time.Millisecond) {
		select {
		case <-exited:
			if cmd.ProcessState.Exited() {
				m.t.Fatalf("the child gave up: %s", stderr.String())
			}
			return true
		default:
		}
		if enough() {
			_ = cmd.Process.Kill()
			<-exited
			return false
		}
	}
	_ = cmd.Process.Kill()
	m.t.Fatal("nothing happens any more")
	return false
}

// childDone reads the outbox and says whether an outcome is in it and the record
// has been cleared.
func (m *machine) childDone() bool {
	data, err := os.ReadFile(m.path("outbox"))
	if err != nil {
		return false
	}
	m.reports = nil
	for _, line := range bytes.Split(bytes.TrimSpace(data), []byte("\n")) {
		var u wire.Update
		if json.Unmarshal(line, &u) == nil {
			m.reports = append(m.reports, u)
		}
	}
	var r Record
	record, err := os.ReadFile(filepath.Join(m.dir, "state", "update", recordFile))
	return err == nil && decodeRecord(record, &r) == nil && r.Now == nil && len(m.outcomes()) > 0
}
