package verifier_test

import (
	"bytes"
	"crypto/x509"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/verifier"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// word is what a chip's IAK says of one of its keys.
func word(t *testing.T, chip *tpm.TPM, certificate []byte, key *tpm.Key, qualifying []byte) wire.IAK {
	t.Helper()
	certify, signature, err := chip.CertifyBy(t.Context(), uint32(tpmtest.IAKHandle), key, qualifying)
	if err != nil {
		t.Fatal(err)
	}
	return wire.IAK{Certificate: certificate, Certify: certify, Signature: signature}
}

func machine(t *testing.T, maker *tpmtest.Maker, policies ...uint64) (chip *tpm.TPM, certificate []byte, keys []*tpm.Key) {
	t.Helper()
	_, power := tpmtest.Start(t)
	certificate = maker.IAK(t, power, policies...)
	chip, err := tpm.Open(t.Context(), "unix:"+power.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = chip.Close() })
	for range 2 {
		key, err := chip.CreateKey(t.Context(), tpm.AK)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	return chip, certificate, keys
}

func bundle(makers ...*tpmtest.Maker) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, m := range makers {
		pool.AppendCertsFromPEM(m.PEM())
	}
	return pool
}

// TestMakersAttestationKeyVouchesForTheAKBesideIt, and for nothing else.
func TestMakersAttestationKeyVouchesForTheAKBesideIt(t *testing.T) {
	maker, stranger := tpmtest.NewMaker(t), tpmtest.NewMaker(t)
	chip, certificate, keys := machine(t, maker, 1, 2, 3)
	qualifying := wire.IAKQualifyingData("fleet", []byte("EK Name"))
	good := word(t, chip, certificate, keys[0], qualifying)
	now := time.Now()
	id, err := verifier.VerifyIAK(good, bundle(stranger, maker), keys[0].TPMPublic(), qualifying, now)
	if err != nil || len(id) != 64 {
		t.Fatalf("%q %v", id, err)
	}
	if again, err := verifier.VerifyIAK(word(t, chip, certificate, keys[1], qualifying), bundle(maker), keys[1].TPMPublic(), qualifying, now); err != nil || again != id {
		t.Errorf("the same machine is %q, then %q: %v", id, again, err)
	}
	weakChip, weakCertificate, weakKeys := machine(t, maker, 1, 2) // an IDevID's: not verified to be restricted
	weak := word(t, weakChip, weakCertificate, weakKeys[0], qualifying)
	altered := func(edit func(*wire.IAK)) wire.IAK {
		c := wire.IAK{Certificate: bytes.Clone(good.Certificate), Certify: bytes.Clone(good.Certify), Signature: bytes.Clone(good.Signature)}
		edit(&c)
		return c
	}
	for name, c := range map[string]struct {
		word       wire.IAK
		makers     *x509.CertPool
		ak         *tpm.Key
		qualifying []byte
		at         time.Time
	}{
		"of another AK":             {good, bundle(maker), keys[1], qualifying, now},
		"for another EK":            {good, bundle(maker), keys[0], wire.IAKQualifyingData("fleet", []byte("other")), now},
		"for another fleet":         {good, bundle(maker), keys[0], wire.IAKQualifyingData("other", []byte("EK Name")), now},
		"of an unknown maker":       {good, bundle(stranger), keys[0], qualifying, now},
		"long expired":              {good, bundle(maker), keys[0], qualifying, now.AddDate(40, 0, 0)},
		"not said to be restricted": {weak, bundle(maker), weakKeys[0], qualifying, now},
		"of another machine":        {altered(func(w *wire.IAK) { w.Certificate = weakCertificate }), bundle(maker), keys[0], qualifying, now},
		"statement altered":         {altered(func(w *wire.IAK) { w.Certify[len(w.Certify)-1] ^= 1 }), bundle(maker), keys[0], qualifying, now},
		"signature altered":         {altered(func(w *wire.IAK) { w.Signature[len(w.Signature)-1] ^= 1 }), bundle(maker), keys[0], qualifying, now},
		"certificate altered":       {altered(func(w *wire.IAK) { w.Certificate[len(w.Certificate)-1] ^= 1 }), bundle(maker), keys[0], qualifying, now},
		"without certificate":       {altered(func(w *wire.IAK) { w.Certificate = nil }), bundle(maker), keys[0], qualifying, now},
	} {
		if id, err := verifier.VerifyIAK(c.word, c.makers, c.ak.TPMPublic(), c.qualifying, c.at); err == nil {
			t.Errorf("%s: it vouches for machine %s", name, id)
		}
	}
}
