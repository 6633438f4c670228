package secret_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/gatewarden/gatewarden/agent/secret"
	"github.com/gatewarden/gatewarden/tpm"
)

// errCut is what a step meets when the power goes: it does not act, nor does any after it.
var errCut = errors.New("power cut")

// cutter fails the nth file operation and all after it.
type cutter struct{ n, ops int }

func (c *cutter) hook(string, string) error {
	c.ops++
	if c.ops >= c.n {
		return errCut
	}
	return nil
}

// confirm is a commit of a release of epoch 2: re-seal, raise, settle.
func confirm(g *gateway, s *secret.Store) error {
	if err := s.Prepare(context.Background(), g.policy(2)); err != nil {
		return err
	}
	value, err := g.tryRaise(2)
	if err != nil {
		return err
	}
	return s.Settle(value)
}

// TestPowerCutAtEveryStepOfAReseal: whatever is cut, both secrets open at the next
// start, the confirm can be repeated, and then no file of epoch 1 opens.
func TestPowerCutAtEveryStepOfAReseal(t *testing.T) {
	t.Run("files", func(t *testing.T) {
		for n := 1; ; n++ {
			cut := &cutter{n: n}
			began := func(g *gateway) *secret.Store { return g.store(cut.hook) }
			if resealCut(t, n, began) {
				if n < 10 {
					t.Errorf("only %d operations", n-1)
				}
				return
			}
		}
	})
	t.Run("chip", func(t *testing.T) {
		step := 3
		if os.Getenv("GATEWARDEN_LONG") != "" {
			step = 1
		}
		for n := 1; ; n += step {
			began := func(g *gateway) *secret.Store {
				g.cutAt(n)
				return g.store(nil)
			}
			if resealCut(t, n, began) {
				if n < 20 {
					t.Errorf("only %d commands", n-1)
				}
				return
			}
		}
	})
}

// resealCut tells whether the confirm came through without meeting the cut.
func resealCut(t *testing.T, n int, begin func(*gateway) *secret.Store) bool {
	t.Helper()
	g := newGateway(t, "v1")
	g.epoch = 2
	s := g.store(nil)
	put(t, s, "a", "secret of a")
	put(t, s, "b", "secret of b")
	old := files(t, g)
	through := confirm(g, begin(g)) == nil
	g.reboot("v1")
	s = g.store(nil)
	check := func(when string) {
		for _, name := range []string{"a", "b"} {
			if got, err := s.Get(t.Context(), name); err != nil || string(got) != "secret of "+name {
				t.Errorf("cut at %d, %s: %s is %q, %v", n, when, name, got, err)
			}
		}
	}
	check("after the start")
	if err := confirm(g, s); err != nil { // the engine goes on where it was
		t.Errorf("cut at %d, second try: %v", n, err)
	}
	check("after the second try")
	for path := range files(t, g) {
		if filepath.Ext(path) == ".next" {
			t.Errorf("cut at %d: %s is left", n, path)
		}
	}
	restore(t, old)
	if _, err := s.Get(t.Context(), "a"); !errors.Is(err, tpm.ErrPolicy) {
		t.Errorf("cut at %d: the file of epoch 1 still opens: %v", n, err)
	}
	return through
}

// TestPowerCutAtEveryStepOfPut: the old secret is there, or the new one.
func TestPowerCutAtEveryStepOfPut(t *testing.T) {
	g := newGateway(t, "v1")
	put(t, g.store(nil), "a", "0")
	for n, last := 1, 0; ; n++ {
		cut := &cutter{n: n}
		next := fmt.Sprint(n)
		err := g.store(cut.hook).Put(t.Context(), "a", secret.Terms{}, []byte(next))
		got, getErr := g.store(nil).Get(t.Context(), "a")
		if getErr != nil || string(got) != fmt.Sprint(last) && string(got) != next {
			t.Fatalf("cut at operation %d: %q, %v; Put said %v", n, got, getErr, err)
		}
		if err == nil {
			if string(got) != next || cut.ops >= n {
				t.Fatalf("stored, but %q is there", got)
			}
			return
		}
		_, _ = fmt.Sscan(string(got), &last)
	}
}

// TestAbortedResealLeavesAllAsItWas: the update went back before the counter was raised.
func TestAbortedResealLeavesAllAsItWas(t *testing.T) {
	g := newGateway(t, "v1")
	g.epoch = 2
	s := g.store(nil)
	put(t, s, "a", "x")
	if err := s.Prepare(t.Context(), g.policy(2)); err != nil {
		t.Fatal(err)
	}
	wantSecret(t, s, "a", "x")
	if err := s.Put(t.Context(), "b", secret.Terms{}, []byte("y")); !errors.Is(err, secret.ErrPending) {
		t.Errorf("stored while a re-seal is under way: %v", err)
	}
	if err := s.Settle(g.counter()); err != nil { // nothing to settle yet
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "b", secret.Terms{}, []byte("y")); !errors.Is(err, secret.ErrPending) {
		t.Errorf("stored while a re-seal is under way: %v", err)
	}
	if err := s.Abort(g.counter()); err != nil {
		t.Fatal(err)
	}
	put(t, s, "b", "y")
	wantSecret(t, s, "a", "x")
	before := files(t, g)
	if err := s.Prepare(t.Context(), g.policy(1)); err != nil || len(files(t, g)) != len(before) {
		t.Errorf("prepared for the value that the counter has: %v", err)
	}
	past := g.policy(1)
	past.Counter.Value--
	if err := s.Prepare(t.Context(), past); err == nil {
		t.Error("prepared for a value that is past")
	}
}

// TestAbortAfterTheRaiseLosesNothing: it came too late, and settles instead.
func TestAbortAfterTheRaiseLosesNothing(t *testing.T) {
	g := newGateway(t, "v1")
	g.epoch = 2
	s := g.store(nil)
	put(t, s, "a", "x")
	if err := s.Prepare(t.Context(), g.policy(2)); err != nil {
		t.Fatal(err)
	}
	if err := s.Abort(g.raise(2)); err != nil {
		t.Fatal(err)
	}
	wantSecret(t, g.store(nil), "a", "x")
}

// TestASecretThatDoesNotOpenStopsThePrepare: raising the counter would lose it.
func TestASecretThatDoesNotOpenStopsThePrepare(t *testing.T) {
	g := newGateway(t, "v1")
	s := g.store(nil)
	put(t, s, "a", "x")
	g.reboot("tampered kernel")
	if err := g.store(nil).Prepare(t.Context(), g.policy(2)); !errors.Is(err, tpm.ErrPolicy) {
		t.Errorf("prepared: %v", err)
	}
}

// files are the sealed files of a gateway.
func files(t *testing.T, g *gateway) map[string][]byte {
	t.Helper()
	all := make(map[string][]byte)
	paths, err := filepath.Glob(filepath.Join(g.dir, "secrets", "*.*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all[path] = data
	}
	return all
}

func restore(t *testing.T, all map[string][]byte) {
	t.Helper()
	for path, data := range all {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
