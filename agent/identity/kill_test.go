package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent/evidence"
	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm"
)

const victimEnv = "GATEWARDEN_TEST_VICTIM"

func TestMain(m *testing.M) {
	if spec := os.Getenv(victimEnv); spec != "" {
		if err := victim(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// victimSpec is a process that does what is due and kills itself before its nth
// durable step.
type victimSpec struct {
	Dir, Log, Socket, Trust, Why string
	At                           int
}

func victim(text string) error {
	var s victimSpec
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	raw, err := os.ReadFile(s.Trust)
	if err != nil {
		return err
	}
	fleet, err := policy.ParseFleet(raw)
	if err != nil {
		return err
	}
	ctx := context.Background()
	chip, err := tpm.Open(ctx, "unix:"+s.Socket)
	if err != nil {
		return err
	}
	steps := 0
	files := &fsx.FS{Hook: func(string, string) error {
		if steps++; steps == s.At {
			return errors.Join(syscall.Kill(os.Getpid(), syscall.SIGKILL), errPower)
		}
		return nil
	}}
	var collector *evidence.Collector
	i, err := New(ctx, Config{
		Dir: s.Dir, FS: files, TPM: chip, Fleet: func() *policy.Fleet { return fleet }, Clock: &fakeClock{trusted: true},
		Model: "lab-box", Hostname: "box", Software: "1.0",
		Collect: func(ctx context.Context, c wire.Challenge, keys ...string) (attest.Evidence, error) {
			return collector.Collect(ctx, c, keys...)
		},
		Verdict: func(wire.Verdict) {}, Changed: func(Credential) {}, Event: func(string, string) {}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	if collector, err = evidence.New(evidence.Config{
		TPM: chip, AK: i.AK(), Fleet: fleetID, Device: i.Device(), Claims: func() attest.Claims { return attest.Claims{Version: 1, Software: "1.0"} },
		Logs: func(context.Context) (*os.File, *os.File, error) {
			f, err := os.Open(s.Log)
			return f, nil, err
		},
	}); err != nil {
		return err
	}
	_, err = i.step(ctx, s.Why)
	return err
}

// killAt runs the agent's part in a process of its own, and reports whether it got
// as far as step n and was killed there.
func (g *gateway) killAt(n int, why string) (killed bool) {
	g.Helper()
	spec := g.json(victimSpec{g.dir, g.log, g.power.Socket, filepath.Join(g.settings.State, "trust", "fleet.json"), why, n})
	cmd := exec.CommandContext(g.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), victimEnv+"="+string(spec))
	var said strings.Builder
	cmd.Stderr = &said
	err := cmd.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) && ended.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return true
	}
	if err != nil {
		g.Fatalf("the process ended with %v: %s", err, said.String())
	}
	return false
}

// SIGKILL at each durable step between the request and the last cleaning up; at each
// third where tests have to be quick. Nothing may rest on what a process leaves in
// order: locks, loaded keys, half-written files.
func TestKilledAtEveryDurableStepComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g, i := w.enrolled()
	stride := 3
	if os.Getenv("GATEWARDEN_LONG") != "" {
		stride = 1
	}
	for name, why := range map[string]string{"renewal": "test", "recovery": ""} {
		t.Run(name, func(t *testing.T) {
			for at := 1; ; at += stride {
				if why == "" {
					w.must(os.Remove(filepath.Join(g.dir, currentFile)))
				}
				killed := g.killAt(at, why)
				i = g.start()
				if why != "" && serial(i) == "" {
					t.Fatalf("killed at step %d of a renewal there is no credential", at)
				}
				g.step(i, "")
				if c, ok := i.Current(); !ok || time.Until(c.Leaf().NotAfter) < week-time.Hour || i.prove(t.Context(), &c) != nil {
					t.Fatalf("killed at step %d the credential is %q", at, serial(i))
				}
				if !killed {
					if at < 15 {
						t.Errorf("only %d durable steps were seen", at-1)
					}
					return
				}
			}
		})
	}
}
