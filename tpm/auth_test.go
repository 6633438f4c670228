package tpm_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

const ownerPassword, endorsementPassword = "the owner's 32 random bytes .....", "the endorsement's random bytes .."

// taken is a chip whose hierarchies all have passwords.
func taken(t *testing.T, power *tpmtest.Power) {
	t.Helper()
	raw := dial(t, power)
	defer raw.Close()
	setAuth(t, raw, tpm2.TPMRHOwner, ownerPassword)
	setAuth(t, raw, tpm2.TPMRHEndorsement, endorsementPassword)
	setAuth(t, raw, tpm2.TPMRHLockout, "the lockout's")
}

func passwords() tpm.Auth {
	return tpm.Auth{Owner: []byte(ownerPassword), Endorsement: []byte(endorsementPassword)}
}

// listener hands on what crosses the bus.
type listener struct {
	transport.TPM
	heard bytes.Buffer
}

func (l *listener) Send(command []byte) ([]byte, error) {
	l.heard.Write(command)
	response, err := l.TPM.Send(command)
	l.heard.Write(response)
	return response, err
}

// TestWorksWithOwnerAndEndorsementPasswords: on a chip as its maker ships it, with
// and without certificates, nothing is different but the passwords; they don't cross
// the bus and are as they were afterwards.
func TestWorksWithOwnerAndEndorsementPasswords(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(testing.TB) (*tpmtest.Machine, *tpmtest.Power){
		"bare": tpmtest.Start, "manufactured": tpmtest.StartManufactured,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, power := start(t)
			taken(t, power)
			bus := &listener{TPM: dial(t, power)}
			chip := tpm.New(bus, tpm.WithAuth(passwords()))
			defer chip.Close()
			for _, kind := range []string{"", "rsa2048", "ecc-p256", "ecc-p384"} {
				if err := enrolWith(t.Context(), t, chip, kind); err != nil {
					t.Fatalf("%q: %v", kind, err)
				}
			}
			for _, secret := range []string{ownerPassword, endorsementPassword} {
				if bytes.Contains(bus.heard.Bytes(), []byte(secret)) {
					t.Error("a password crossed the bus")
				}
			}
			info := must(chip.Info(t.Context()))(t)
			if !info.OwnerAuth || !info.EndorsementAuth || info.LockoutCounter != 0 {
				t.Errorf("%+v", info)
			}
			if name == "manufactured" && !slices.Equal(info.Banks, []string{"sha256"}) {
				t.Errorf("banks %v: not a chip with SHA-256 only", info.Banks)
			}
			for _, handle := range must(power.Handles())(t) {
				if handle>>24 != 0x80 {
					t.Errorf("session %x stays", handle)
				}
			}
		})
	}
}

// enrolWith is enrolAndAttest with a kind of EK, and the key loaded from its file.
func enrolWith(ctx context.Context, t *testing.T, chip *tpm.TPM, kind string) error {
	t.Helper()
	ek, err := chip.EK(ctx, kind)
	if err != nil {
		return err
	}
	made, err := chip.CreateKey(ctx, tpm.AK)
	if err != nil {
		return err
	}
	ak, err := chip.LoadKey(ctx, made.PEM())
	if err != nil {
		return err
	}
	blob, secret := makeCredential(t, ek, ak.Name(), []byte("ticket"))
	got, err := chip.Activate(ctx, ek, ak, blob, secret)
	if err == nil && string(got) != "ticket" {
		t.Errorf("recovered %q", got)
	}
	if err == nil {
		_, _, err = chip.Quote(ctx, ak, nil, pcrs())
	}
	return errors.Join(err, made.Close(), ak.Close())
}

// TestWrongOrMissingPasswordIsSaidAndNotCounted: the message names the credential;
// no session stays and the chip does not lock itself.
func TestWrongOrMissingPasswordIsSaidAndNotCounted(t *testing.T) {
	_, power := tpmtest.Start(t)
	taken(t, power)
	for name, auth := range map[string]tpm.Auth{
		"none": {}, "wrong": {Owner: []byte("wrong"), Endorsement: []byte("wrong")},
	} {
		chip := tpm.New(dial(t, power), tpm.WithAuth(auth))
		for range 40 { // more than any chip takes
			_, err := chip.CreateKey(t.Context(), tpm.AK)
			if !errors.Is(err, tpm.ErrPolicy) || !containsText([]byte(err.Error()), "tpm-owner-auth") {
				t.Fatalf("%s: %v", name, err)
			}
			if _, err := chip.EK(t.Context(), "ecc-p256"); !errors.Is(err, tpm.ErrPolicy) {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if info := must(chip.Info(t.Context()))(t); info.LockoutCounter != 0 || info.LockedOut {
			t.Fatalf("%s: %+v", name, info)
		}
		if left := must(power.Handles())(t); len(left) != 0 {
			t.Fatalf("%s: left %x", name, left)
		}
		_ = chip.Close()
	}
}

func TestPasswordsAreReadFromCredentials(t *testing.T) {
	folder := t.TempDir()
	for _, empty := range []string{"", folder, filepath.Join(folder, "none")} {
		if a := must(tpm.ReadAuth(empty))(t); a.Owner != nil || a.Endorsement != nil {
			t.Errorf("%q: %+v", empty, a)
		}
	}
	write(t, folder, "tpm-owner-auth", []byte("secret\n"))
	if a := must(tpm.ReadAuth(folder))(t); string(a.Owner) != "secret" || a.Endorsement != nil {
		t.Errorf("%+v", a)
	}
	write(t, folder, "tpm-endorsement-auth", []byte("other\x00\x00"))
	if a := must(tpm.ReadAuth(folder))(t); string(a.Endorsement) != "other" {
		t.Errorf("%+v", a)
	}
	write(t, folder, "tpm-owner-auth", bytes.Repeat([]byte("x"), 65))
	if _, err := tpm.ReadAuth(folder); err == nil {
		t.Error("took a password that no chip takes")
	}
	if err := os.Remove(filepath.Join(folder, "tpm-owner-auth")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(folder, "tpm-owner-auth"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := tpm.ReadAuth(folder); err == nil {
		t.Error("a password that can't be read is none")
	}
}
