package main

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/gatewarden/gatewarden/helper"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

func TestEpochCounterSurvivesRestartsAndPowerCuts(t *testing.T) {
	_, chip := tpmtest.Start(t)
	state := t.TempDir()
	open := func(hook func(op, path string) error) *epochCounter {
		return newEpochCounter(helper.Config{FS: &fsx.FS{Hook: hook}, State: state}, "unix:"+chip.Socket, tpm.Auth{})
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
	// A key that is not known is damage here: without "record" it would begin anew.
	path := filepath.Join(state, "counter.json")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Replace(whole, []byte(`"record"`), []byte(`"recorf"`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if epoch, _, err := open(nil).Epoch(t.Context()); err == nil {
		t.Errorf("a counter without its record shows epoch %d", epoch)
	}
	// Without its file it can't be believed, and a new one is not put in its place.
	if err := os.Remove(filepath.Join(state, "counter.json")); err != nil {
		t.Fatal(err)
	}
	if epoch, _, err := open(nil).Epoch(t.Context()); err == nil {
		t.Errorf("a counter of another key shows epoch %d", epoch)
	}
}

// TestEpochCounterIsMadeWithTheOwnersPassword where the owner hierarchy has one.
func TestEpochCounterIsMadeWithTheOwnersPassword(t *testing.T) {
	_, chip := tpmtest.Start(t)
	conn, err := net.Dial("unix", chip.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = tpm2.HierarchyChangeAuth{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		NewAuth:    tpm2.TPM2BAuth{Buffer: []byte("secret")},
	}.Execute(transport.FromReadWriter(conn))
	if err != nil {
		t.Fatal(err)
	}
	config := helper.Config{FS: &fsx.FS{}, State: t.TempDir()}
	if _, _, err := newEpochCounter(config, "unix:"+chip.Socket, tpm.Auth{}).Epoch(t.Context()); !errors.Is(err, tpm.ErrPolicy) {
		t.Errorf("without the password: %v", err)
	}
	if epoch, _, err := newEpochCounter(config, "unix:"+chip.Socket, tpm.Auth{Owner: []byte("secret")}).Epoch(t.Context()); err != nil || epoch != 0 {
		t.Errorf("with the password: epoch %d, %v", epoch, err)
	}
}
