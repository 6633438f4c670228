// Package boottest is the conformance suite of boot loaders: what package boot
// promises, with a power cut at every step that reaches the disk.
package boottest

import (
	"errors"
	"testing"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/update/boot"
)

// Machine is a new machine whose default is slot a, switched off.
type Machine struct {
	Loader func(fs *fsx.FS) boot.Loader // the loader as the running system sees it
	Boot   func() (string, error)       // power on: the slot that starts
}

// Run holds a loader to the contract of boot.Loader.
func Run(t *testing.T, make func(t *testing.T) Machine) {
	for name, claim := range map[string]func(*machine){
		"a new machine boots its default":               fresh,
		"a trial lasts one boot":                        trialOnce,
		"a commit lasts":                                commitLasts,
		"a commit drops an unused trial":                commitDisarms,
		"calls may be repeated":                         repeated,
		"a trial can be had again":                      trialAgain,
		"only slots a and b exist":                      unknownSlots,
		"the default can't be on trial":                 defaultOnTrial,
		"a cut in TryNext leaves the default behind it": cutInTry,
		"a cut in Commit leaves old or new":             cutInCommit,
	} {
		t.Run(name, func(t *testing.T) {
			claim(&machine{T: t, Machine: make(t), new: func() Machine { return make(t) }})
		})
	}
}

type machine struct {
	*testing.T
	Machine
	new func() Machine
}

func (m *machine) loader() boot.Loader { return m.Loader(&fsx.FS{}) }

// must takes the error of a call that has to succeed.
func (m *machine) must(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

// wantBoot powers on and checks what starts, and that the loader says so, too.
func (m *machine) wantBoot(slot string, trial bool) {
	m.Helper()
	started, err := m.Boot()
	m.must(err)
	says, onTrial, err := m.loader().Booted()
	m.must(err)
	if started != slot || says != slot || onTrial != trial {
		m.Fatalf("slot %s started, the loader says %s, trial %v; want %s, %v", started, says, onTrial, slot, trial)
	}
}

func fresh(m *machine) {
	m.must(m.loader().Probe())
	m.wantBoot("a", false)
	m.wantBoot("a", false)
}

func trialOnce(m *machine) {
	m.wantBoot("a", false)
	m.must(m.loader().TryNext("b"))
	m.wantBoot("b", true)
	m.wantBoot("a", false)
	m.wantBoot("a", false)
}

func commitLasts(m *machine) {
	m.wantBoot("a", false)
	m.must(m.loader().TryNext("b"))
	m.wantBoot("b", true)
	m.must(m.loader().Commit("b"))
	if slot, trial, err := m.loader().Booted(); slot != "b" || trial || err != nil {
		m.Errorf("after the commit: slot %s, trial %v, %v", slot, trial, err)
	}
	for range 3 {
		m.wantBoot("b", false)
	}
	m.must(m.loader().TryNext("a")) // and back, the same way
	m.wantBoot("a", true)
	m.wantBoot("b", false)
}

func commitDisarms(m *machine) {
	m.wantBoot("a", false)
	m.must(m.loader().TryNext("b"))
	m.must(m.loader().Commit("a"))
	m.wantBoot("a", false)
}

func repeated(m *machine) {
	m.wantBoot("a", false)
	for range 3 {
		m.must(m.loader().TryNext("b"))
	}
	m.wantBoot("b", true)
	for range 3 {
		m.must(m.loader().Commit("b"))
	}
	m.wantBoot("b", false)
}

func trialAgain(m *machine) {
	m.wantBoot("a", false)
	for range 3 {
		m.must(m.loader().TryNext("b"))
		m.wantBoot("b", true)
		m.wantBoot("a", false)
	}
}

func unknownSlots(m *machine) {
	m.wantBoot("a", false)
	for _, slot := range []string{"", "c", "A", "../a", "a\x00"} {
		if m.loader().TryNext(slot) == nil {
			m.Errorf("TryNext(%q) was accepted", slot)
		}
		if m.loader().Commit(slot) == nil {
			m.Errorf("Commit(%q) was accepted", slot)
		}
	}
	m.wantBoot("a", false)
}

func defaultOnTrial(m *machine) {
	m.wantBoot("a", false)
	if m.loader().TryNext("a") == nil {
		m.Error("the default slot was put on trial")
	}
}

// cutInTry: after a cut anywhere in TryNext, the next boot is the default or the
// trial, and the one after it the default.
func cutInTry(m *machine) {
	m.cuts(func(l boot.Loader) error { return l.TryNext("b") }, func(started string) {
		if started == "b" {
			m.wantBoot("a", false)
		}
	})
}

// cutInCommit: after a cut anywhere in a commit during a trial, the old or the
// new slot boots for good.
func cutInCommit(m *machine) {
	m.cuts(func(l boot.Loader) error {
		m.must(m.loader().TryNext("b"))
		m.wantBoot("b", true)
		return l.Commit("b")
	}, func(started string) {
		m.wantBoot(started, false)
	})
}

// cuts runs act on new machines, with the power cut at its first step, at its
// second, and so on until it gets through. then sees the slot that starts next.
func (m *machine) cuts(act func(boot.Loader) error, then func(started string)) {
	const enough = 100
	for n := range enough {
		m.Machine = m.new()
		m.wantBoot("a", false)
		steps := 0
		fs := &fsx.FS{Hook: func(string, string) error {
			if steps++; steps > n {
				return errors.New("the power is cut")
			}
			return nil
		}}
		err := act(m.Loader(fs))
		if steps <= n {
			m.must(err)
			if n == 0 {
				m.Fatal("nothing reaches the disk through fsx")
			}
			return
		}
		if err == nil {
			m.Errorf("a cut at step %d goes unsaid", n+1)
		}
		started, bootErr := m.Boot()
		m.must(bootErr)
		if started != "a" && started != "b" {
			m.Fatalf("slot %q started", started)
		}
		then(started)
	}
	m.Fatalf("still not through after %d steps", enough)
}
