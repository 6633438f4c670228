package main

import (
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/gatewarden/gatewarden/agent"
	"github.com/gatewarden/gatewarden/internal/bench/rig"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

var rewrite = flag.Bool("update", false, "rewrite the golden texts in testdata")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"gatewarden": main, "restricted": restrictedMain})
}

// Scripts run the real program. Their golden texts change only with -update.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", UpdateScripts: *rewrite, RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			boot, err := filepath.Abs("../../testdata/boot")
			e.Setenv("BOOT", boot)
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

// exits CODE PROGRAM ARGS... fails unless the program ends with this code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
	}
	got := 0
	var ended *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &ended) {
		got = ended.ExitCode()
	} else if err != nil {
		ts.Fatalf("run %s: %v", args[1], err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// TestScriptsAgainstAnAgent asks an agent that enrolled with a real fleet.
func TestScriptsAgainstAnAgent(t *testing.T) {
	_, power := tpmtest.StartManufactured(t)
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	fleet, err := rig.StartFleet(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fleet.Close() })
	gateway, err := rig.Boot(t.Context(), filepath.Join(dir, "gateway"), fleet.Trust(), power)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { gateway.Close() })
	device := runAgent(t, gateway)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/agent", UpdateScripts: *rewrite, RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
			"approve": func(ts *testscript.TestScript, _ bool, _ []string) {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				ts.Check(fleet.Approve(ctx, device))
			},
			"eventually": eventually,
		},
		Setup: func(env *testscript.Env) error {
			env.Setenv("SOCKET", gateway.Settings.Socket)
			env.Setenv("DEVICE", device)
			return nil
		},
	})
}

// patience is how long a test waits before it says that something hangs.
const patience = 2 * time.Minute

// runAgent runs an agent until the test ends.
func runAgent(t *testing.T, gateway *rig.Gateway) (device string) {
	t.Helper()
	a, err := agent.New(t.Context(), gateway.Settings, agent.Build{Version: "1.2.3", Time: time.Unix(1, 0)}, rig.Quiet())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return a.Device()
}

// eventually PATTERN PROGRAM ARGS... runs the program until its output matches.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually PATTERN PROGRAM ARGS...")
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		_ = ts.Exec(args[1], args[2:]...) // its output is what is looked at
		if ok, err := matches(args[0], ts.ReadFile("stdout")+ts.ReadFile("stderr")); ok || err != nil {
			ts.Check(err)
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("never printed %q; at last:\n%s%s", args[0], ts.ReadFile("stdout"), ts.ReadFile("stderr"))
		}
	}
}

func matches(pattern, text string) (bool, error) { return regexp.MatchString("(?m)"+pattern, text) }
