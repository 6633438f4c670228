package tpm_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"os"
	"testing"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// TestConnectionThatComesBackBringsItsKeys: after the chip or its driver restarted,
// callers go on with the keys that they hold. A key that was closed stays closed.
func TestConnectionThatComesBackBringsItsKeys(t *testing.T) {
	t.Parallel()
	machine, power := tpmtest.Start(t)
	path := power.Socket
	chip := must(tpm.Open(t.Context(), "unix:"+path))(t)
	defer chip.Close()
	ek := must(chip.EK(t.Context(), "ecc-p256"))(t)
	ak := must(chip.CreateKey(t.Context(), tpm.AK))(t)
	key := must(chip.CreateKey(t.Context(), tpm.Operational))(t)
	closed := must(chip.CreateKey(t.Context(), tpm.Operational))(t)
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("message"))
	for range 3 {
		_ = power.Kill()
		for range 2 {
			if _, err := key.Sign(nil, digest[:], crypto.SHA256); !errors.Is(err, tpm.ErrAbsent) {
				t.Fatalf("without a chip: %v", err)
			}
		}
		power = tpmtest.PowerOn(t, machine)
		if power.Socket != path {
			t.Fatalf("another socket: %s", power.Socket)
		}
		sig := must(key.Sign(nil, digest[:], crypto.SHA256))(t)
		if !ecdsa.VerifyASN1(key.Public().(*ecdsa.PublicKey), digest[:], sig) {
			t.Fatal("signature does not verify")
		}
		quote, sig, err := chip.Quote(t.Context(), ak, digest[:], pcrs())
		if err != nil {
			t.Fatal(err)
		}
		verify(t, ak, quote, sig)
		blob, secret := makeCredential(t, ek, ak.Name(), []byte("ticket"))
		must(chip.Activate(t.Context(), ek, ak, blob, secret))(t)
		if _, err := closed.Sign(nil, digest[:], crypto.SHA256); !errors.Is(err, tpm.ErrAbsent) {
			t.Fatalf("closed key: %v", err)
		}
	}
}

// TestAnotherChipAtTheSamePlaceIsNamed, for each key, and the EK tells it too.
func TestAnotherChipAtTheSamePlaceIsNamed(t *testing.T) {
	_, power := tpmtest.Start(t)
	_, other := tpmtest.Start(t)
	chip := must(tpm.Open(t.Context(), "unix:"+power.Socket))(t)
	defer chip.Close()
	ek := must(chip.EK(t.Context(), "ecc-p256"))(t)
	ak := must(chip.CreateKey(t.Context(), tpm.AK))(t)
	_ = power.Kill()
	if err := os.Rename(other.Socket, power.Socket); err != nil {
		t.Fatal(err)
	}
	_, _, err := chip.Quote(t.Context(), ak, nil, pcrs())
	if !errors.Is(err, tpm.ErrAbsent) {
		t.Fatalf("the connection was lost: %v", err)
	}
	for range 2 {
		if _, _, err := chip.Quote(t.Context(), ak, nil, pcrs()); !errors.Is(err, tpm.ErrReplaced) {
			t.Fatalf("quote by another chip: %v", err)
		}
	}
	fresh := must(chip.CreateKey(t.Context(), tpm.AK))(t)
	blob, secret := makeCredential(t, ek, fresh.Name(), []byte("ticket"))
	if _, err := chip.Activate(t.Context(), ek, fresh, blob, secret); !errors.Is(err, tpm.ErrReplaced) {
		t.Fatalf("the EK of another chip: %v", err)
	}
	if err := enrolAndAttest(t.Context(), t, chip); err != nil {
		t.Fatalf("enrol anew: %v", err)
	}
}
