package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/gatewarden/gatewarden/helper"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

func TestEpochCounterSurvivesRestartsAndPowerCuts(t *testing.T) {
	_, chip := tpmtest.Start(t)
	state := t.TempDir()
	open := func(hook func(op, path string) error) *epochCounter {
		return newEpochCounter(helper.Config{FS: &fsx.FS{Hook: hook}, State: state}, "unix:"+chip.Socket)
	}
	// The power goes at each step of making it; then it is made.
	for n := 1; n <= 10; n++ {
		steps := 0
		_, _, err := open(func(string, string) error {
			if steps++; steps >= n {
				return errors.New("the power is cut")
			}
			return nil
		}).Epoch(t.Context())
		if err == nil && n < 5 {
			t.Errorf("a cut at step %d goes unsaid", n)
		}
	}
	epoch, record, err := open(nil).Epoch(t.Context())
	if err != nil || epoch != 0 || len(record) == 0 {
		t.Fatalf("a new counter shows epoch %d, record %s, %v", epoch, record, err)
	}
	for _, to := range []uint64{2, 2, 1} {
		if err := open(nil).Raise(t.Context(), to); err != nil {
			t.Fatal(err)
		}
		if epoch, _, err := open(nil).Epoch(t.Context()); epoch != 2 || err != nil {
			t.Errorf("raised to %d it shows %d, %v", to, epoch, err)
		}
	}
	// Without its file it can't be believed, and a new one is not put in its place.
	if err := os.Remove(filepath.Join(state, "counter.json")); err != nil {
		t.Fatal(err)
	}
	if epoch, _, err := open(nil).Epoch(t.Context()); err == nil {
		t.Errorf("a counter of another key shows epoch %d", epoch)
	}
}
