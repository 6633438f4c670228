package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent/audit"
	"github.com/gatewarden/gatewarden/agent/link"
	"github.com/gatewarden/gatewarden/e2e/lab"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/tpm/seal"
)

// harm counts what is wrong in crash states.
type harm struct{ states, unclean, lost, damaged, inPlace int }

// Story 5: whatever of the unflushed writes a power cut takes, the state of agent and
// helper is whole, and what was acknowledged is there. Two controls must fail: the same
// log with flushes ignored, and a file that is written in place.
func TestNoCrashStateLosesWhatWasAcknowledged(t *testing.T) {
	inFull(t)
	w := newWorld(t, setup{coldBoot: true, machine: lab.Machine{Logged: true}})
	w.enrol()
	w.Until("secrets can be sealed", agentLimit, func() error {
		_, err := w.vm.Try("printf x | gatewarden seal first")
		return err
	})
	// Each number is sealed, and written in place beside it, then acknowledged.
	w.vm.Run(`mkdir -p /var/lib/lab/control; dd if=/dev/zero of=/var/lib/lab/control/f bs=4096 count=1 conv=fsync status=none
		for n in $(seq 25); do
			printf "secret $n" | gatewarden seal s$n >/dev/null || exit 1
			printf '%-4096s' "$n" | dd of=/var/lib/lab/control/f conv=notrunc bs=4096 status=none; sync /var/lib/lab/control
			` + lab.Mark + ` || exit 1
		done`)
	w.vm.PowerCut()
	states := 300
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	honest := w.crashes(states, seed, lab.Lose{})
	t.Logf("as disks do: %+v", honest)
	if honest.unclean+honest.lost+honest.damaged > 0 {
		t.Errorf("a power cut does harm: %+v", honest)
	}
	ignored := w.crashes(states/3, seed, lab.Lose{Flushed: true})
	t.Logf("control, flushes ignored: %+v", ignored)
	if ignored.unclean+ignored.lost+ignored.damaged == 0 {
		t.Error("with flushes ignored nothing is lost: the test sees nothing")
	}
	if honest.inPlace == 0 {
		t.Error("a file written in place lost nothing: the test sees nothing")
	}
}

func (w *world) crashes(n int, seed uint64, lose lab.Lose) harm {
	w.Helper()
	var h harm
	w.vm.CrashStates("data", n, seed, lose, func(c lab.Crash) {
		h.states++
		clean, err := c.Repair()
		w.check(err)
		if !clean {
			h.unclean++
			return
		}
		dir := w.TempDir()
		for _, folder := range []string{"/gatewarden", "/gatewarden-helper", "/lab"} {
			w.check(c.Extract(folder, dir))
		}
		h.examine(w, dir, c.Acked)
		w.check(os.RemoveAll(dir))
	})
	return h
}

// examine looks at the state as agent and helper do when they start.
func (h *harm) examine(w *world, dir string, acked int) {
	state := filepath.Join(dir, "gatewarden")
	for n := 1; n <= acked; n++ {
		blob, err := os.ReadFile(filepath.Join(state, "secrets", fmt.Sprintf("s%d.sealed", n)))
		if err == nil {
			_, err = seal.Inspect(blob)
		}
		if err != nil {
			w.Logf("secret %d of %d: %v", n, acked, err)
			h.lost++
			break
		}
	}
	var number int
	if text, _ := os.ReadFile(filepath.Join(dir, "lab/control/f")); acked > 0 { // absent is lost, too
		if _, err := fmt.Sscan(string(text), &number); err != nil || number < acked {
			h.inPlace++
		}
	}
	if acked == 0 {
		return // the state may not have been made yet
	}
	if err := errors.Join(whole(state), readable(dir)); err != nil {
		w.Logf("after %d: %v", acked, err)
		h.damaged++
	}
}

// whole opens the audit log and the outbox as the agent does, which moves aside what
// is damaged.
func whole(state string) error {
	if _, err := audit.Open(&fsx.FS{}, filepath.Join(state, "audit.log"), time.Now); err != nil {
		return err
	}
	box, err := link.OpenOutbox(filepath.Join(state, "outbox.db"), link.DefaultLimits(), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	if err := box.Close(); err != nil {
		return err
	}
	moved, err := filepath.Glob(filepath.Join(state, "*.damaged"))
	if err == nil && len(moved) > 0 {
		err = fmt.Errorf("%s was damaged", moved[0])
	}
	return err
}

// readable returns an error unless all JSON that lies there is whole.
func readable(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".json" {
			return err
		}
		raw, err := os.ReadFile(path)
		if err == nil && !json.Valid(raw) {
			err = fmt.Errorf("%s is torn: %q", path, raw)
		}
		return err
	})
}
