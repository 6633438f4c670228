package seal_test

import (
	"context"
	"errors"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/seal"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// times is how often a long test repeats: a tenth, or all with GATEWARDEN_LONG=1.
func times(all int) int {
	if os.Getenv("GATEWARDEN_LONG") != "" {
		return all
	}
	return all / 10
}

// TestAFaultAtAnyCommandIsAClearError, leaves nothing in the chip, and the next try works.
func TestAFaultAtAnyCommandIsAClearError(t *testing.T) {
	g := newGateway(t, release("1"))
	p := g.policy(1)
	blob, signed := g.seal(p), g.approve(1, release("1"))
	works := map[string]func(context.Context) error{
		"seal": func(ctx context.Context) error {
			_, err := seal.Seal(ctx, g.chip, []byte("x"), p)
			return err
		},
		"unseal": func(ctx context.Context) error {
			_, err := seal.Unseal(ctx, g.chip, blob, signed)
			return err
		},
	}
	faults := map[string]struct {
		fault tpmtest.Fault
		class []error
	}{
		"lockout": {tpmtest.ResponseCode(tpm2.TPMRCLockout), []error{tpm.ErrLockedOut}},
		"memory":  {tpmtest.ResponseCode(tpm2.TPMRCSessionMemory), []error{tpm.ErrBusy}},
		"failure": {tpmtest.ResponseCode(tpm2.TPMRCFailure), []error{tpm.ErrAbsent}},
		"cut":     {tpmtest.Cut(true), []error{tpm.ErrAbsent}},
		"garbage": {tpmtest.Garbage([]byte{0x80, 1, 0, 0, 0, 10, 0, 0, 0}), []error{tpm.ErrDamaged}},
		// A success that is none: the next commands show it, or the next attempt mends it.
		"false yes": {tpmtest.Garbage([]byte{0x80, 2, 0, 0, 0, 10, 0, 0, 0, 0}), []error{tpm.ErrDamaged, tpm.ErrPolicy, nil}},
		"zero size": {tpmtest.Garbage(nil), []error{tpm.ErrDamaged}},
	}
	for work, run := range works {
		if err := run(t.Context()); err != nil { // derives the storage key
			t.Fatal(err)
		}
		g.faults.Reset()
		if err := run(t.Context()); err != nil {
			t.Fatal(err)
		}
		codes := g.faults.Codes()
		t.Logf("%s: %v", work, codes)
		for name, f := range faults {
			for n, code := range codes {
				g.faults.At(n+1, f.fault)
				err := run(t.Context())
				g.faults.Clear()
				if code == tpm2.TPMCCFlushContext && err == nil {
					g.reconnect()
					continue // its work was done
				}
				known := false
				for _, class := range f.class {
					known = known || errors.Is(err, class) // nil is nil
				}
				if !known {
					t.Errorf("%s at %v of %s: %v", name, code, work, err)
				}
				// What a lost answer or a refused flush leaves behind goes with the connection.
				if g.lost(name, code) {
					g.reconnect()
				}
				if err := run(t.Context()); err != nil {
					t.Errorf("after %s at %v of %s: %v", name, code, work, err)
				}
			}
		}
	}
}

// lost says whether a fault hid from us what the chip made, or stopped a flush.
func (g *gateway) lost(fault string, code tpm2.TPMCC) bool {
	switch fault {
	case "lockout", "memory", "failure":
		return code == tpm2.TPMCCFlushContext
	}
	return true
}

// TestASilentChipEndsWithTheContext, and what it did meanwhile is cleaned up.
func TestASilentChipEndsWithTheContext(t *testing.T) {
	g := newGateway(t, release("1"))
	blob, signed := g.seal(g.policy(1)), g.approve(1, release("1"))
	for _, at := range []tpm2.TPMCC{tpm2.TPMCCPolicyAuthorize, tpm2.TPMCCUnseal, tpm2.TPMCCFlushContext} {
		release := make(chan struct{})
		g.faults.On(at, 1, tpmtest.Stall(release))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := seal.Unseal(ctx, g.chip, blob, signed); !errors.Is(err, tpm.ErrBusy) {
			t.Errorf("silent at %v: %v", at, err)
		}
		cancel()
		close(release)
		g.faults.Clear()
		g.opens(blob, signed)
	}
	if handles, err := g.power.Handles(); err != nil || len(handles) > 1 {
		t.Errorf("handles left: %x %v", handles, err)
	}
}

// TestFailedUnsealsLeaveNothingAndCountNothing: no session, no object, no memory, no lockout.
func TestFailedUnsealsLeaveNothingAndCountNothing(t *testing.T) {
	good := release("1")
	g := newGateway(t, good)
	now := g.record.Initial
	digest, err := ref(1).Digest()
	if err != nil {
		t.Fatal(err)
	}
	blob, signed := g.seal(g.policy(1)), approve(t, g.key, ref(1), good)
	var heap int64
	for i := range times(1000) {
		if i == times(1000)/10 {
			heap = inUse()
		}
		g.faults.Reset() // it remembers every command
		if _, err := g.try(blob, attack{signed: signed, ref: digest[:], value: &now}); err == nil {
			t.Fatal("it opened")
		}
		g.shut(blob, nil, "unsigned")
	}
	if grown := inUse() - heap; grown > 256<<10 {
		t.Errorf("%d bytes more than after a tenth of them", grown)
	}
	info, err := g.chip.Info(t.Context())
	if err != nil || info.LockoutCounter != 0 {
		t.Errorf("lockout counter %d, %v", info.LockoutCounter, err)
	}
	g.opens(blob, g.approve(1, good))
}

// inUse is the memory that is still needed.
func inUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// TestKeysAndSecretsShareTheChip: three objects is all that it holds.
func TestKeysAndSecretsShareTheChip(t *testing.T) {
	g := newGateway(t, release("1"))
	var keys []*tpm.Key
	for _, role := range []tpm.Role{tpm.AK, tpm.Operational, tpm.Operational} {
		key, err := g.chip.CreateKey(t.Context(), role)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	blob, signed := g.seal(g.policy(1)), g.approve(1, release("1"))
	for range 3 {
		g.opens(blob, signed)
		if _, _, err := g.chip.Quote(t.Context(), keys[0], []byte("nonce"), []int{11}); err != nil {
			t.Fatal(err)
		}
		digest := digestOf("x")
		for _, key := range keys[1:] {
			if _, err := key.Sign(nil, digest[:], cryptoSHA256); err != nil {
				t.Fatal(err)
			}
		}
	}
	g.raise(1) // loads a key of its own
	if _, err := keys[2].Sign(nil, make([]byte, 32), cryptoSHA256); err != nil {
		t.Fatal(err)
	}
}
