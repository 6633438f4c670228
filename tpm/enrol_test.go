package tpm_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// TestEnrolmentCostsAtMost16Commands holds BUDGETS 4 by the list itself.
func TestEnrolmentCostsAtMost16Commands(t *testing.T) {
	t.Parallel()
	_, power := tpmtest.StartManufactured(t)
	chip, faults := connect(t, power)
	ctx := context.Background()

	enrolAsShipped(ctx, t, chip)
	want := []tpm2.TPMCC{
		tpm2.TPMCCGetCapability,      // which certificates are there
		tpm2.TPMCCNVReadPublic,       // how long is the EK certificate
		tpm2.TPMCCNVRead,             // the certificate: up to 1,024 bytes each
		tpm2.TPMCCGetCapability,      // which persistent keys are there
		tpm2.TPMCCCreatePrimary,      // SRK
		tpm2.TPMCCCreateLoaded,       // AK
		tpm2.TPMCCCreateLoaded,       // operational key
		tpm2.TPMCCSign,               // certificate request
		tpm2.TPMCCCertify,            // the operational key is in this chip
		tpm2.TPMCCFlushContext,       // room for the EK: the SRK goes
		tpm2.TPMCCStartAuthSession,   // salted to the EK, encrypts the answer
		tpm2.TPMCCPolicySecret,       // the EK's policy
		tpm2.TPMCCActivateCredential, // the session ends with it
		tpm2.TPMCCQuote,              // first attestation
		tpm2.TPMCCPCRRead,            // eight PCRs
		tpm2.TPMCCPCRRead,            // seven PCRs
	}
	for i, code := range faults.Codes() {
		if i >= len(want) || code != want[i] {
			t.Errorf("command %d is %#x", i+1, code)
		}
	}
	if n := chip.Commands(); n != uint64(len(want)) || n > 16 {
		t.Fatalf("%d commands", n)
	}
}

// enrolAsShipped is what BUDGETS 4 counts: an enrolment with its first attestation, on a
// chip with its maker's certificate.
func enrolAsShipped(ctx context.Context, t testing.TB, chip *tpm.TPM) {
	t.Helper()
	ek := must(chip.EK(ctx, ""))(t)
	ak := must(chip.CreateKey(ctx, tpm.AK))(t)
	key := must(chip.CreateKey(ctx, tpm.Operational))(t)
	csr := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{SignatureAlgorithm: x509.ECDSAWithSHA256}, key))(t)
	if err := must(x509.ParseCertificateRequest(csr))(t).CheckSignature(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := chip.Certify(ctx, ak, key, []byte("nonce")); err != nil {
		t.Fatal(err)
	}
	blob, secret := makeCredential(t, ek, ak.Name(), []byte("the credential"))
	if got := must(chip.Activate(ctx, ek, ak, blob, secret))(t); string(got) != "the credential" {
		t.Fatalf("activated %q", got)
	}
	nonce := sha256.Sum256([]byte("nonce"))
	quote, sig, err := chip.Quote(ctx, ak, nonce[:], pcrs())
	if err != nil {
		t.Fatal(err)
	}
	verify(t, ak, quote, sig)
	if values := must(chip.ReadPCRs(ctx, pcrs()))(t); len(values) != len(pcrs()) {
		t.Fatalf("%d PCR values", len(values))
	}
}

// TestEKCertificateComesFromTheMaker: it chains to the authority that made the
// chip, without NV padding, and names the key that activates.
func TestEKCertificateComesFromTheMaker(t *testing.T) {
	t.Parallel()
	machine, power := tpmtest.StartManufactured(t)
	chip, _ := connect(t, power)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(must(machine.CACertificates())(t)) {
		t.Fatal("no CA certificates")
	}
	ak := must(chip.CreateKey(t.Context(), tpm.AK))(t)
	for _, kind := range []string{"", "rsa2048", "ecc-p384"} {
		ek := must(chip.EK(t.Context(), kind))(t)
		certificate := must(x509.ParseCertificate(ek.Certificate))(t)
		// The TPM's name is in an extension that crypto/x509 leaves to its user.
		certificate.UnhandledCriticalExtensions = nil
		if _, err := certificate.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			t.Fatalf("%q: %v", kind, err)
		}
		if kind == "" && ek.Kind != "rsa2048" {
			t.Fatalf("chose %s", ek.Kind)
		}
		blob, secret := makeCredential(t, ek, ak.Name(), []byte("ticket"))
		if got := must(chip.Activate(t.Context(), ek, ak, blob, secret))(t); string(got) != "ticket" {
			t.Fatalf("%q: recovered %q", kind, got)
		}
	}
}

func TestEKWithoutCertificateActivates(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip, _ := connect(t, power)
	ak := must(chip.CreateKey(t.Context(), tpm.AK))(t)
	for _, kind := range []string{"", "ecc-p256", "rsa2048", "ecc-p384"} {
		ek := must(chip.EK(t.Context(), kind))(t)
		if ek.Certificate != nil || (kind != "" && ek.Kind != kind) {
			t.Fatalf("%q: got %s", kind, ek.Kind)
		}
		blob, secret := makeCredential(t, ek, ak.Name(), []byte("ticket"))
		if got := must(chip.Activate(t.Context(), ek, ak, blob, secret))(t); string(got) != "ticket" {
			t.Fatalf("%q: recovered %q", kind, got)
		}
	}
	noHandles(t, power, 3)
}

// TestCredentialForAnotherKeyIsRefused: by another AK of the chip, and by a chip
// with another EK.
func TestCredentialForAnotherKeyIsRefused(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip, _ := connect(t, power)
	ek := must(chip.EK(t.Context(), "ecc-p256"))(t)
	ak := must(chip.CreateKey(t.Context(), tpm.AK))(t)
	other := must(chip.CreateKey(t.Context(), tpm.AK))(t)
	blob, secret := makeCredential(t, ek, ak.Name(), []byte("ticket"))
	if _, err := chip.Activate(t.Context(), ek, other, blob, secret); !errors.Is(err, tpm.ErrPolicy) {
		t.Fatalf("another AK: %v", err)
	}
	_, power2 := tpmtest.Start(t)
	chip2, _ := connect(t, power2)
	ak2 := must(chip2.CreateKey(t.Context(), tpm.AK))(t)
	if _, err := chip2.Activate(t.Context(), ek, ak2, blob, secret); !errors.Is(err, tpm.ErrReplaced) {
		t.Fatalf("another chip: %v", err)
	}
	if got := must(chip.Activate(t.Context(), ek, ak, blob, secret))(t); string(got) != "ticket" {
		t.Fatalf("recovered %q", got)
	}
	info := must(chip.Info(t.Context()))(t)
	if info.LockoutCounter != 0 {
		t.Fatalf("lockout counter is %d", info.LockoutCounter)
	}
}

// TestActivationSurvivesAForeignKeyAtTheEKHandle: what is at 0x81010001 need not be
// the certified EK.
func TestActivationSurvivesAForeignKeyAtTheEKHandle(t *testing.T) {
	t.Parallel()
	_, power := tpmtest.StartManufactured(t)
	raw := dial(t, power)
	evict(t, raw, tpm2.TPMRHOwner, 0x81010001, 0x81010001)
	foreign := tpm2.RSAEKTemplate
	foreign.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: []byte("other")})
	persist(t, raw, tpm2.TPMRHEndorsement, foreign, 0x81010001)
	_ = raw.Close()

	chip, _ := connect(t, power)
	ek := must(chip.EK(t.Context(), ""))(t)
	ak := must(chip.CreateKey(t.Context(), tpm.AK))(t)
	key := must(chip.CreateKey(t.Context(), tpm.Operational))(t)
	blob, secret := makeCredential(t, ek, ak.Name(), []byte("ticket"))
	if got := must(chip.Activate(t.Context(), ek, ak, blob, secret))(t); string(got) != "ticket" {
		t.Fatalf("recovered %q", got)
	}
	if _, _, err := chip.Certify(t.Context(), ak, key, nil); err != nil {
		t.Fatal(err)
	}
	if info := must(chip.Info(t.Context()))(t); info.LockoutCounter != 0 {
		t.Fatalf("lockout counter is %d", info.LockoutCounter)
	}
}
