package main

import (
	"path/filepath"
	"testing"

	"github.com/gatewarden/gatewarden/agent/link"
	"github.com/gatewarden/gatewarden/internal/bench/rig"
)

// TestHealthCyclesAreThoseOfTheAgent: all checks of the agent can be set up and run, or
// the line of the budget measures nothing.
func TestHealthCyclesAreThoseOfTheAgent(t *testing.T) {
	dir := t.TempDir()
	outbox, err := link.OpenOutbox(filepath.Join(dir, "outbox.db"), link.Limits{Bytes: 1 << 20, Count: 100}, rig.Quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer outbox.Close()
	cycle, err := newCycle(dir, outbox)
	if err != nil {
		t.Fatal(err)
	}
	if err := cycle(t.Context(), 2*storedEvery); err != nil {
		t.Error(err)
	}
}
