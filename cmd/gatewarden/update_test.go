package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/internal/cli"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/update"
)

// updateAgent answers on a socket as an agent would.
func updateAgent(t *testing.T, answers map[string]any) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(answers[strings.TrimPrefix(r.URL.Path, "/v1/update/")])
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	return socket
}

func runUpdate(t *testing.T, answers map[string]any, args ...string) (out string, code int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := updateVerb(&options{socket: updateAgent(t, answers), stdout: &stdout, stderr: &stderr})
	cmd.SetArgs(args)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.ExecuteContext(t.Context())
	var asCode cli.Exit
	switch {
	case errors.As(err, &asCode):
		code = int(asCode)
	case err != nil:
		t.Fatal(err)
	}
	return stdout.String(), code
}

func TestUpdateTellsTheTruthInWordsAndExitCode(t *testing.T) {
	ended := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	back := wire.Update{Outcome: wire.UpdateRolledBack, Rule: "disk", Text: "After 3 seconds.", Release: "2.0.0", From: "1.0.0", Ended: ended}
	done := wire.Update{Outcome: wire.UpdateInstalled, Release: "2.0.0", From: "1.0.0", Fetched: 12345, Pending: true, Ended: ended}
	running := wire.Update{Release: "3.0.0", From: "2.0.0", Fetched: 10, Chunks: 1}
	for name, c := range map[string]struct {
		verb   string
		answer any
		want   string
		code   int
	}{
		"rolled back":    {"status", update.Status{State: update.Idle, Auto: true, Last: &back}, "release 2.0.0 ROLLED BACK to 1.0.0 (disk): After 3 seconds.", exitNotMade},
		"installed":      {"status", update.Status{State: update.Idle, Auto: true, Last: &done}, "12345 bytes fetched; it was kept before the fleet could judge it", cli.OK},
		"under way":      {"status", update.Status{State: update.Installing, Now: &running, Progress: &update.Progress{Image: "rootfs", Chunks: 9, Missing: 4, Fetched: 1}}, "1 of 4 missing chunks", exitAvailable},
		"not automatic":  {"status", update.Status{State: update.Idle}, "installs only when told to", cli.OK},
		"problem":        {"status", update.Status{State: update.Idle, Problem: "no mirror answers"}, "no mirror answers", cli.OK},
		"up to date":     {"check", update.Found{Running: "2.0.0"}, "up to date: 2.0.0 runs", cli.OK},
		"available":      {"check", update.Found{Running: "1.0.0", Release: "2.0.0"}, "release 2.0.0", exitAvailable},
		"failed before":  {"check", update.Found{Running: "1.0.0", Release: "2.0.0", Blocked: true}, "it failed before", exitAvailable},
		"not for us":     {"check", update.Found{Running: "1.0.0", Release: "2.0.0", Refused: "epoch"}, "but: epoch", exitNotMade},
		"confirmed":      {"confirmed", local.Confirmed{Confirmed: true}, "here to stay", cli.OK},
		"on trial":       {"confirmed", local.Confirmed{}, "on trial", exitAvailable},
		"history":        {"history", []wire.Update{back, done}, "2026-11-20 12:00:00 UTC  release 2.0.0 installed", cli.OK},
		"no history":     {"history", []wire.Update{}, "there was no update yet", cli.OK},
		"apply, no wait": {"apply", update.Status{State: update.Idle, Auto: true, Last: &back}, "state", cli.OK},
	} {
		t.Run(name, func(t *testing.T) {
			out, code := runUpdate(t, map[string]any{c.verb: c.answer}, c.verb)
			if !strings.Contains(out, c.want) || code != c.code {
				t.Errorf("exit code %d, want %d; output:\n%s", code, c.code, out)
			}
		})
	}
}

func TestApplyWaitsForTheEnd(t *testing.T) {
	last := wire.Update{Outcome: wire.UpdateFailed, Rule: "budget"}
	answers := map[string]any{
		"apply": update.Status{State: update.Idle, Asked: true}, "status": update.Status{State: update.Idle, Last: &last},
	}
	if out, code := runUpdate(t, answers, "apply", "--wait"); code != exitNotMade || !strings.Contains(out, "budget") {
		t.Errorf("exit code %d; %s", code, out)
	}
}

// The unit that holds boot-complete.target starts with the agent or before it, and
// must see neither an agent that is not there yet nor one whose helper is down as
// an answer.
func TestConfirmedWaitsForTheAgentAndTheCommit(t *testing.T) {
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	done := make(chan error, 1)
	var stdout, stderr bytes.Buffer
	cmd := updateVerb(&options{socket: socket, stdout: &stdout, stderr: &stderr})
	cmd.SetArgs([]string{"confirmed", "--wait"})
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	go func() { done <- cmd.ExecuteContext(t.Context()) }()
	asked := make(chan struct{}, 10)
	answers := []func(w http.ResponseWriter){
		func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) },
		func(w http.ResponseWriter) { _ = json.NewEncoder(w).Encode(local.Confirmed{}) },
		func(w http.ResponseWriter) { _ = json.NewEncoder(w).Encode(local.Confirmed{Confirmed: true}) },
	}
	var n atomic.Int32
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		answers[min(int(n.Add(1)), len(answers))-1](w)
		asked <- struct{}{}
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	for range answers {
		select {
		case err := <-done:
			if n.Load() < int32(len(answers)) {
				t.Fatalf("it returned after %d answers: %v", n.Load(), err)
			}
			done <- err
		case <-asked:
		}
	}
	if err := <-done; err != nil || !strings.Contains(stdout.String(), "here to stay") {
		t.Errorf("error is %v; output: %s", err, stdout.String())
	}
}
