package doctor

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

func ecdsaKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// guess makes an object with a password that the chip watches, and tries wrong ones.
func guess(t *testing.T, raw transport.TPM) func() {
	t.Helper()
	template := tpm2.ECCSRKTemplate
	template.ObjectAttributes.NoDA = false
	primary := must(tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(template),
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: []byte("right")}}},
	}.Execute(raw))(t)
	return func() {
		t.Helper()
		_, err := tpm2.Create{
			ParentHandle: tpm2.AuthHandle{Handle: primary.ObjectHandle, Name: primary.Name, Auth: tpm2.PasswordAuth([]byte("wrong"))},
			InPublic:     tpm2.New2B(tpm2.ECCSRKTemplate),
		}.Execute(raw)
		if !errors.Is(err, tpm2.TPMRCAuthFail) && !errors.Is(err, tpm2.TPMRCLockout) {
			t.Fatalf("a wrong password: %v", err)
		}
	}
}

// TestALockedChipIsSaidAndServesGatewardenStill: that is what the finding tells.
func TestALockedChipIsSaidAndServesGatewardenStill(t *testing.T) {
	_, power := tpmtest.StartManufactured(t)
	b, wrong := newBox(t).with(power), guess(t, dial(t, power))
	c := must(b.chip(t.Context()))(t)
	if c.LockoutCounter != 0 || c.MaxAuthFail < 2 {
		t.Fatalf("a new chip: %d of %d", c.LockoutCounter, c.MaxAuthFail)
	}
	for range c.MaxAuthFail - 1 {
		wrong()
	}
	b.again().sees("lockout.near")
	wrong()
	wrong()
	b.again().sees("lockout.locked")

	chip := must(tpm.Open(t.Context(), b.Settings.TPM))(t)
	defer chip.Close()
	ak := must(chip.CreateKey(t.Context(), tpm.AK))(t)
	if _, _, err := chip.Quote(t.Context(), ak, []byte("nonce"), []int{0}); err != nil {
		t.Errorf("quote: %v", err)
	}
	ek := must(chip.EK(t.Context(), ""))(t)
	public := must(tpm2.Unmarshal[tpm2.TPMTPublic](ek.Public))(t)
	key := must(tpm2.ImportEncapsulationKey(public))(t)
	blob, secret, err := tpm2.CreateCredential(rand.Reader, key, ak.Name(), []byte("0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := chip.Activate(t.Context(), ek, ak, blob, secret); err != nil {
		t.Errorf("activate: %v", err)
	}
}
