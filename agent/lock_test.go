package agent_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/internal/bench/rig"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// pcr11 reads it past the agent.
func (w *world) pcr11(t *testing.T) [32]byte {
	t.Helper()
	chip, err := tpm.Open(t.Context(), w.gateway.Settings.TPM)
	if err != nil {
		t.Fatal(err)
	}
	defer chip.Close()
	values, err := chip.ReadPCRs(t.Context(), []int{11})
	if err != nil {
		t.Fatal(err)
	}
	return values[11]
}

// reboot cuts the power and boots the same software; /run is empty then.
func (w *world) reboot(t *testing.T) {
	t.Helper()
	dir := filepath.Dir(w.gateway.Settings.State)
	if err := errors.Join(w.gateway.Close(), w.power.Kill(), os.Remove(w.gateway.Settings.Socket+".locked")); err != nil {
		t.Fatal(err)
	}
	w.power = tpmtest.PowerOn(t, w.machine)
	gateway, err := rig.Boot(t.Context(), dir, w.fleet.Trust(), w.power)
	if err != nil {
		t.Fatal(err)
	}
	w.gateway = gateway
}

// attest asks for a verdict, as often as needed: an exchange that crosses a
// renewal is lost.
func (r *running) attest(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := rig.Await(ctx, "ask for a verdict", func() error { return r.Attest(ctx) }); err != nil {
		t.Fatal(err)
	}
}

func TestQuarantineShutsSecretsOnceAndUntilTheNextBoot(t *testing.T) {
	w := newWorld(t)
	r := w.enrolled(t, build())
	good := w.pcr11(t)
	if r.Status().Locked {
		t.Fatal("a trusted device is locked")
	}
	if err := w.power.Extend(t.Context(), 12, sha256.Sum256([]byte("an extension"))); err != nil {
		t.Fatal(err)
	}
	r.attest(t)
	locked := func(s local.Status) error {
		if !s.Locked || s.Certificate == nil || !strings.HasPrefix(s.Certificate.Identity, "q-") {
			return fmt.Errorf("locked: %t, certificate %+v", s.Locked, s.Certificate)
		}
		return nil
	}
	r.await(t, locked)
	word := sha256.Sum256([]byte("gatewarden-lock"))
	want := sha256.Sum256(append(good[:], word[:]...))
	if got := w.pcr11(t); got != want {
		t.Errorf("PCR 11 is %x, want %x", got, want)
	}
	r.attest(t) // judged again: no second lock
	for range 2 {
		r.end(t)
		r = w.run(t, build())
		r.await(t, locked) // an agent that starts again knows it
		r.attest(t)
	}
	if got := w.pcr11(t); got != want {
		t.Errorf("PCR 11 was extended once more: %x", got)
	}
	if audit, err := os.ReadFile(filepath.Join(w.gateway.Settings.State, "audit.log")); err != nil || strings.Count(string(audit), "secret.locked") != 1 {
		t.Errorf("the audit log has it %d times, %v", strings.Count(string(audit), "secret.locked"), err)
	}
	r.end(t)

	w.reboot(t)
	began := time.Now()
	r = w.run(t, build())
	late, err := json.Marshal(wire.Verdict{ // on the boot before
		Version: 1, Device: r.Device(), Nonce: make([]byte, wire.NonceSize), Grade: "untrusted", Gate: wire.GateQuarantine, Issued: began, Explanation: []string{"late"},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Receive(t.Context(), wire.KindVerdict, late)
	s := r.await(t, func(s local.Status) error {
		if s.Certificate == nil || strings.HasPrefix(s.Certificate.Identity, "q-") {
			return errors.New("still in quarantine")
		}
		return well(began)(s)
	})
	if got := w.pcr11(t); got != good || s.Locked {
		t.Errorf("the next boot is locked (%t), PCR 11 is %x", s.Locked, got)
	}
}

// TestLockThatWasCutOffIsMade: the note of it comes first.
func TestLockThatWasCutOffIsMade(t *testing.T) {
	w := newWorld(t)
	before := w.pcr11(t)
	note := fmt.Sprintf(`{"v":1,"pcr11":"%x"}`, before)
	if err := os.WriteFile(w.gateway.Settings.Socket+".locked", []byte(note), 0o600); err != nil {
		t.Fatal(err)
	}
	r := w.run(t, build())
	r.await(t, func(s local.Status) error {
		if !s.Locked {
			return errors.New("not locked yet")
		}
		return nil
	})
	if w.pcr11(t) == before {
		t.Error("PCR 11 is as it was")
	}
}
