package tpm_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// TestLockoutIsNeverRetried: each try would lengthen it.
func TestLockoutIsNeverRetried(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip, faults := connect(t, power)
	key := must(chip.CreateKey(t.Context(), tpm.Operational))(t)
	faults.On(tpm2.TPMCCSign, -1, tpmtest.ResponseCode(tpm2.TPMRCLockout))
	before := chip.Commands()
	digest := sha256.Sum256(nil)
	if _, err := key.Sign(nil, digest[:], crypto.SHA256); !errors.Is(err, tpm.ErrLockedOut) {
		t.Fatalf("got %v", err)
	}
	if n := chip.Commands() - before; n != 1 {
		t.Fatalf("%d commands", n)
	}
}

// TestPostponedCommandsAreRepeatedButNotForEver.
func TestPostponedCommandsAreRepeatedButNotForEver(t *testing.T) {
	t.Parallel()
	for _, rc := range []tpm2.TPMRC{tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate} {
		t.Run(rc.Error(), func(t *testing.T) {
			t.Parallel()
			_, power := tpmtest.Start(t)
			chip, faults := connect(t, power)
			faults.On(tpm2.TPMCCPCRRead, 3, tpmtest.ResponseCode(rc))
			must(chip.ReadPCRs(t.Context(), []int{0}))(t)
			if n := chip.Commands(); n != 4 {
				t.Fatalf("%d commands for one that was postponed three times", n)
			}
			faults.On(tpm2.TPMCCPCRRead, -1, tpmtest.ResponseCode(rc))
			if _, err := chip.ReadPCRs(t.Context(), []int{0}); !errors.Is(err, tpm.ErrBusy) {
				t.Fatalf("got %v", err)
			}
			if n := chip.Commands(); n > 20 {
				t.Fatalf("%d commands", n)
			}
			faults.Clear()
			must(chip.ReadPCRs(t.Context(), []int{0}))(t)
		})
	}
}

// TestSilentChipBlocksNobody: the call ends with its context, later ones at once,
// and all is well when the chip answers again.
func TestSilentChipBlocksNobody(t *testing.T) {
	t.Parallel()
	_, power := tpmtest.Start(t)
	chip, faults := connect(t, power)
	key := must(chip.CreateKey(t.Context(), tpm.Operational))(t)
	release := make(chan struct{})
	faults.On(tpm2.TPMCCCreateLoaded, 1, tpmtest.Stall(release))
	faults.Reset()
	for !slices.Contains(faults.Codes(), tpm2.TPMCCCreateLoaded) { // on a loaded machine a call may end before it comes to that
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err := chip.CreateKey(ctx, tpm.Operational)
		cancel()
		if !errors.Is(err, tpm.ErrBusy) {
			t.Fatalf("stalled call: %v", err)
		}
	}
	ctx2, cancel2 := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel2()
	if _, err := chip.ReadPCRs(ctx2, []int{0}); !errors.Is(err, tpm.ErrBusy) {
		t.Fatalf("call behind it: %v", err)
	}
	// Once it is clear that the chip is silent, even a call without a deadline fails.
	late, cancel3 := context.WithTimeout(t.Context(), hung)
	defer cancel3()
	if _, err := readWhenStuck(late, chip); !errors.Is(err, tpm.ErrBusy) || late.Err() != nil {
		t.Fatalf("call to a silent chip: %v", err)
	}
	close(release)
	digest := sha256.Sum256(nil)
	for {
		_, err := key.Sign(nil, digest[:], crypto.SHA256)
		if err == nil {
			break
		}
		if late.Err() != nil {
			t.Fatalf("did not come back: %v", err)
		}
		time.Sleep(time.Millisecond)
	}
	// The key that nobody waited for is gone: our key and the storage key remain.
	noHandles(t, power, 2)
}

// readWhenStuck calls, with a short time each, until a call fails without using it up.
func readWhenStuck(ctx context.Context, chip *tpm.TPM) (map[int][32]byte, error) {
	for {
		short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		values, err := chip.ReadPCRs(short, []int{0})
		used := short.Err() != nil
		cancel()
		if !used || ctx.Err() != nil {
			return values, err
		}
	}
}

// TestCloseDoesNotWaitForASilentChip.
func TestCloseDoesNotWaitForASilentChip(t *testing.T) {
	t.Parallel()
	_, power := tpmtest.Start(t)
	chip, faults := connect(t, power)
	release := make(chan struct{})
	defer close(release)
	faults.On(tpm2.TPMCCPCRRead, 1, tpmtest.Stall(release))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, _ = chip.ReadPCRs(ctx, []int{0})
	closed := make(chan error, 1)
	go func() { closed <- chip.Close() }()
	select {
	case <-closed:
	case <-time.After(hung):
		t.Fatal("Close hangs")
	}
	if _, err := chip.ReadPCRs(t.Context(), []int{0}); !errors.Is(err, tpm.ErrAbsent) && !errors.Is(err, tpm.ErrBusy) {
		t.Fatalf("after Close: %v", err)
	}
}

// lifeCommands is a little more than what a life sends.
const lifeCommands = 26

// TestEveryFaultAtEveryCommandIsAnErrorOrARecovery: enrolling, attesting and rotating
// with each fault at each command never hangs, never panics, leaves no handle and no
// key that does not work, and all works afterwards.
func TestEveryFaultAtEveryCommandIsAnErrorOrARecovery(t *testing.T) {
	t.Parallel()
	faults := map[string]tpmtest.Fault{
		"retry":          tpmtest.ResponseCode(tpm2.TPMRCRetry),
		"yielded":        tpmtest.ResponseCode(tpm2.TPMRCYielded),
		"NV rate":        tpmtest.ResponseCode(tpm2.TPMRCNVRate),
		"testing":        tpmtest.ResponseCode(tpm2.TPMRCTesting),
		"lockout":        tpmtest.ResponseCode(tpm2.TPMRCLockout),
		"object memory":  tpmtest.ResponseCode(tpm2.TPMRCObjectMemory),
		"session memory": tpmtest.ResponseCode(tpm2.TPMRCSessionMemory),
		"failure mode":   tpmtest.ResponseCode(tpm2.TPMRCFailure),
		"empty":          tpmtest.Garbage(nil),
		"only header":    tpmtest.Garbage([]byte{0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0}),
		"sessions":       tpmtest.Garbage([]byte{0x80, 2, 0, 0, 0, 14, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}),
		"long lie":       tpmtest.Garbage([]byte{0x80, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}),
		"short":          tpmtest.Short(12),
		"cut before":     tpmtest.Cut(false),
		"cut after":      tpmtest.Cut(true),
		"bit": tpmtest.Alter(func(r []byte) []byte {
			r[len(r)-1] ^= 0x80
			return r
		}),
		"half": tpmtest.Alter(func(r []byte) []byte {
			r = r[:10+(len(r)-10)/2]
			r[2], r[3], r[4], r[5] = 0, 0, byte(len(r)>>8), byte(len(r))
			return r
		}),
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, power := tpmtest.Start(t)
			for n := 1; n <= lifeCommands; n++ {
				if (n+len(name))%4 != 0 && os.Getenv("GATEWARDEN_LONG") == "" {
					continue // the quick test has each fourth command, not the same for all faults
				}
				faultAt(t, power, n, fault)
			}
		})
	}
}

func faultAt(t *testing.T, power *tpmtest.Power, n int, fault tpmtest.Fault) {
	t.Helper()
	chip, faults := connect(t, power)
	faults.At(n, fault)
	ctx, cancel := context.WithTimeout(t.Context(), hung)
	defer cancel()
	made, _ := life(ctx, t, chip)
	if ctx.Err() != nil {
		t.Fatalf("command %d: hangs", n)
	}
	_ = chip.Close()
	noHandles(t, power, 0)
	whole(ctx, t, power, n, made)
	if n%3 != 0 && os.Getenv("GATEWARDEN_LONG") == "" {
		return
	}
	fresh, _ := connect(t, power)
	if err := enrolAndAttest(ctx, t, fresh); err != nil {
		t.Fatalf("after a fault at command %d: %v", n, err)
	}
	_ = fresh.Close()
}

// whole tells a half-made key: each that was handed out must load and be the one
// that it says, or be known as damaged or foreign, and never be another.
func whole(ctx context.Context, t *testing.T, power *tpmtest.Power, n int, made []*tpm.Key) {
	t.Helper()
	clean, _ := connect(t, power)
	defer clean.Close()
	for _, key := range made {
		loaded, err := clean.LoadKey(ctx, key.PEM())
		switch {
		case errors.Is(err, tpm.ErrDamaged), errors.Is(err, tpm.ErrReplaced): // an answer was altered
		case err != nil:
			t.Errorf("command %d: %v", n, err)
		case !bytes.Equal(loaded.Name(), key.Name()):
			t.Errorf("command %d: another key came back", n)
		default:
			_ = loaded.Close()
		}
	}
}

// life is enrolAndAttest, then a rotation: a new key, proven and used, and the old
// one gone. It returns the keys that it got.
func life(ctx context.Context, t *testing.T, chip *tpm.TPM) (made []*tpm.Key, err error) {
	if err := enrolAndAttest(ctx, t, chip); err != nil {
		return nil, err
	}
	for _, role := range []tpm.Role{tpm.AK, tpm.Operational, tpm.Operational} {
		key, err := chip.CreateKey(ctx, role)
		if err != nil {
			return made, err
		}
		made = append(made, key)
	}
	if err := made[1].Close(); err != nil {
		return made, err
	}
	if _, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, made[2]); err != nil {
		return made, err
	}
	_, _, err = chip.Certify(ctx, made[0], made[2], nil)
	return made, err
}

// TestChipThatFallsSilentAtAnyCommandIsLeftInTime: the call ends with its context,
// and when the chip answers after all, nothing of it stays and all works.
func TestChipThatFallsSilentAtAnyCommandIsLeftInTime(t *testing.T) {
	t.Parallel()
	_, power := tpmtest.Start(t)
	for n := 1; n <= lifeCommands; n++ {
		if n%3 != 0 && os.Getenv("GATEWARDEN_LONG") == "" {
			continue
		}
		chip, faults := connect(t, power)
		release := make(chan struct{})
		faults.At(n, tpmtest.Stall(release))
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		began := time.Now()
		_, err := life(ctx, t, chip)
		if took := time.Since(began); took > hung {
			t.Errorf("command %d: it takes %v", n, took)
		}
		unmet := n > len(faults.Codes()) // it may have ended well, and its context a moment later
		if ctx.Err() != nil && !errors.Is(err, tpm.ErrBusy) && !(err == nil && unmet) {
			t.Errorf("command %d: %v", n, err)
		}
		cancel()
		close(release)
		if err := enrolAndAttest(t.Context(), t, chip); err != nil && !errors.Is(err, tpm.ErrBusy) {
			t.Errorf("command %d: afterwards: %v", n, err)
		}
		_ = chip.Close()
		noHandles(t, power, 0)
	}
}

// enrolAndAttest does what an agent does at its first start. Errors end it early.
func enrolAndAttest(ctx context.Context, t testing.TB, chip *tpm.TPM) error {
	ek, err := chip.EK(ctx, "ecc-p256")
	if err != nil {
		return err
	}
	ak, err := chip.CreateKey(ctx, tpm.AK)
	if err != nil {
		return err
	}
	key, err := chip.CreateKey(ctx, tpm.Operational)
	if err != nil {
		return err
	}
	if _, _, err := chip.Certify(ctx, ak, key, nil); err != nil {
		return err
	}
	blob, secret := makeCredential(t, ek, ak.Name(), []byte("ticket"))
	got, err := chip.Activate(ctx, ek, ak, blob, secret)
	if err != nil {
		return err
	}
	if string(got) != "ticket" {
		return fmt.Errorf("recovered %q", got) // the session's HMAC must have noticed
	}
	if _, _, err := chip.Quote(ctx, ak, nil, pcrs()); err != nil {
		return err
	}
	_, err = chip.ReadPCRs(ctx, pcrs())
	return err
}

// TestAlteredCredentialIsNoticed: what ActivateCredential answers crosses the bus
// encrypted and under an HMAC.
func TestAlteredCredentialIsNoticed(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip, faults := connect(t, power)
	ek := must(chip.EK(t.Context(), "ecc-p256"))(t)
	ak := must(chip.CreateKey(t.Context(), tpm.AK))(t)
	blob, secret := makeCredential(t, ek, ak.Name(), []byte("the ticket in clear"))
	faults.On(tpm2.TPMCCActivateCredential, 1, tpmtest.Alter(func(r []byte) []byte {
		if string(r) != "" && containsText(r, "ticket") {
			t.Error("the credential crossed the bus in clear")
		}
		r[len(r)/4] ^= 1
		return r
	}))
	if got, err := chip.Activate(t.Context(), ek, ak, blob, secret); !errors.Is(err, tpm.ErrDamaged) {
		t.Fatalf("altered answer gave %q, %v", got, err)
	}
	if got := must(chip.Activate(t.Context(), ek, ak, blob, secret))(t); string(got) != "the ticket in clear" {
		t.Fatalf("recovered %q", got)
	}
}

// TestSingleBankChipTakesOurQualifyingData: 32 bytes fit where 34 are the limit.
func TestSingleBankChipTakesOurQualifyingData(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip := tpm.New(tpmtest.NewSingleBank(dial(t, power)))
	defer chip.Close()
	ak := must(chip.CreateKey(t.Context(), tpm.AK))(t)
	if _, _, err := chip.Quote(t.Context(), ak, make([]byte, 32), pcrs()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := chip.Quote(t.Context(), ak, make([]byte, 35), pcrs()); err == nil {
		t.Fatal("35 bytes were taken")
	}
	key := must(chip.CreateKey(t.Context(), tpm.Operational))(t)
	if _, _, err := chip.Certify(t.Context(), ak, key, make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := chip.Certify(t.Context(), ak, key, make([]byte, 35)); err == nil {
		t.Fatal("35 bytes were certified")
	}
}

// TestAbsentChipIsSaidWithAHint.
func TestAbsentChipIsSaidWithAHint(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "none"), "unix:" + filepath.Join(dir, "none"), file, ""} {
		if _, err := tpm.Open(t.Context(), path); !errors.Is(err, tpm.ErrAbsent) {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func TestPowerCutEndsCallsWithAnError(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip := must(tpm.Open(t.Context(), "unix:"+power.Socket))(t)
	defer chip.Close()
	ak := must(chip.CreateKey(t.Context(), tpm.AK))(t)
	if err := power.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := chip.Quote(t.Context(), ak, nil, pcrs()); !errors.Is(err, tpm.ErrAbsent) {
		t.Fatalf("got %v", err)
	}
}

// TestFailedActivationLeavesNoSession, though the connection stays open: the
// library forgets a session whose policy failed.
func TestFailedActivationLeavesNoSession(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip, faults := connect(t, power)
	ek := must(chip.EK(t.Context(), "ecc-p256"))(t)
	ak := must(chip.CreateKey(t.Context(), tpm.AK))(t)
	blob, secret := makeCredential(t, ek, ak.Name(), []byte("ticket"))
	for _, code := range []tpm2.TPMCC{tpm2.TPMCCPolicySecret, tpm2.TPMCCActivateCredential} {
		for _, fault := range []tpmtest.Fault{
			tpmtest.ResponseCode(tpm2.TPMRCLockout), tpmtest.ResponseCode(tpm2.TPMRCAuthFail), tpmtest.Garbage([]byte{0x80, 2}),
		} {
			faults.On(code, 1, fault)
			if _, err := chip.Activate(t.Context(), ek, ak, blob, secret); err == nil {
				t.Fatal("no error")
			}
			for _, handle := range must(power.Handles())(t) {
				if handle>>24 != 0x80 {
					t.Fatalf("session %x stays after a fault at %#x", handle, code)
				}
			}
		}
	}
	if got := must(chip.Activate(t.Context(), ek, ak, blob, secret))(t); string(got) != "ticket" {
		t.Fatalf("recovered %q", got)
	}
}
