package update

import (
	"fmt"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"

	"github.com/gatewarden/gatewarden/internal/wire"
)

func long() bool { return os.Getenv("GATEWARDEN_LONG") != "" }

// sweep calls one for the Nth durable op of an update, for each N that a whole
// update needs. In a quick run it takes a twentieth of them, others each time.
func sweep(t *testing.T, one func(m *machine, n int64) (fired bool)) {
	whole := newMachine(t)
	whole.publish(author("2.0.0"), whole.image("2.0.0", 30))
	ops := whole.fault(-1, nil)
	whole.live(whole.settled(1))
	total, step, first := ops.Load(), int64(1), int64(1)
	if !long() {
		step = 20
		first += rand.Int64N(step)
	}
	t.Logf("%d ops, every %d from %d on", total, step, first)
	if total < 100 {
		t.Fatal("the sweep is blind")
	}
	var fired atomic.Int64
	t.Run("ops", func(t *testing.T) {
		for n := first; n <= total; n += step {
			t.Run(fmt.Sprint(n), func(t *testing.T) {
				t.Parallel()
				m := newMachine(t)
				m.publish(author("2.0.0"), m.image("2.0.0", 30))
				if one(m, n) {
					fired.Add(1)
				}
			})
		}
	})
	if fired.Load()*step < total/2 {
		t.Errorf("only %d faults fired", fired.Load())
	}
}

// fault makes the Nth op of engine and helper fail, and with power also all after
// it until the machine is on again.
func (m *machine) fault(n int64, err error) *atomic.Int64 {
	var ops atomic.Int64
	m.hook = func(op, path string) error {
		at := ops.Add(1)
		if at == n || at > n && err == errPower {
			return fmt.Errorf("%s %s: %w", op, path, err)
		}
		return nil
	}
	return &ops
}

// powerOn has checked at each boot that the slot which boots is whole.
func TestPowerCutAtEveryOpLeavesOldOrNewAndNothingStuck(t *testing.T) {
	sweep(t, func(m *machine, n int64) bool {
		ops := m.fault(n, errPower)
		for settled := false; !settled && ops.Load() < n; {
			settled = m.life(m.settled(1))
		}
		m.hook = nil
		m.live(m.settled(1))
		m.wantOutcome(wire.UpdateInstalled, "", "2.0.0")
		m.wantFetchedAgain(1)
		return ops.Load() >= n
	})
}

func TestDiskErrorAtEveryOpIsNoDisaster(t *testing.T) {
	sweep(t, func(m *machine, n int64) bool {
		ops := m.fault(n, errOnce)
		m.live(m.settled(1))
		m.hook = nil
		m.life(m.settled(1)) // nothing is left over for the next start
		all := m.outcomes()
		last := all[len(all)-1]
		want := map[string]string{wire.UpdateInstalled: "2.0.0", wire.UpdateRolledBack: "1.0.0", wire.UpdateFailed: "1.0.0"}
		if m.running != want[last.Outcome] {
			m.t.Errorf("%s runs after %+v", m.running, all)
		}
		return ops.Load() >= n
	})
}
