package tpm_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// shown is what a device shows to its fleet when it enrols and attests.
type shown struct {
	ek       *tpm.EK
	ak, key  *tpm.Key
	ticket   []byte
	certify  [2][]byte
	quote    [2][]byte
	digest   [32]byte
	signed   []byte
	pcrs     map[int][32]byte
	reloaded []byte // Name of the operational key, loaded from its file
}

// show runs a whole enrolment on a chip whose bus somebody may hold. ek is the EK
// that the maker's certificate names.
func show(ctx context.Context, t *testing.T, chip *tpm.TPM, ek *tpm.EK) (s shown, err error) {
	t.Helper()
	if s.ek, err = chip.EK(ctx, ek.Kind); err != nil {
		return s, err
	}
	if s.ak, err = chip.CreateKey(ctx, tpm.AK); err != nil {
		return s, err
	}
	if s.key, err = chip.CreateKey(ctx, tpm.Operational); err != nil {
		return s, err
	}
	if s.certify[0], s.certify[1], err = chip.Certify(ctx, s.ak, s.key, []byte("nonce")); err != nil {
		return s, err
	}
	blob, secret := makeCredential(t, ek, s.ak.Name(), []byte("the ticket")) // to the certified EK
	if s.ticket, err = chip.Activate(ctx, s.ek, s.ak, blob, secret); err != nil {
		return s, err
	}
	if s.quote[0], s.quote[1], err = chip.Quote(ctx, s.ak, []byte("nonce"), pcrs()); err != nil {
		return s, err
	}
	if s.pcrs, err = chip.ReadPCRs(ctx, pcrs()); err != nil {
		return s, err
	}
	s.digest = sha256.Sum256([]byte("message"))
	if s.signed, err = s.key.Sign(nil, s.digest[:], crypto.SHA256); err != nil {
		return s, err
	}
	again, err := chip.LoadKey(ctx, s.key.PEM())
	if err != nil {
		return s, err
	}
	s.reloaded = again.Name()
	return s, nil
}

// believed tells whether a fleet that checks everything takes it for the truth.
func (s shown) believed(ek *tpm.EK) error {
	if !bytes.Equal(s.ek.Name, ek.Name) || string(s.ticket) != "the ticket" {
		return errors.New("activation")
	}
	for _, k := range []*tpm.Key{s.ak, s.key} {
		area, err := tpm2.Unmarshal[tpm2.TPMTPublic](k.TPMPublic())
		if err != nil {
			return err
		}
		if a := area.ObjectAttributes; !a.FixedTPM || !a.FixedParent || a.Restricted != (k == s.ak) {
			return errors.New("attributes")
		}
	}
	for _, statement := range [][2][]byte{s.certify, s.quote} {
		if !validSignature(s.ak, statement[0], statement[1]) {
			return errors.New("signature of the AK")
		}
		attest, err := tpm2.Unmarshal[tpm2.TPMSAttest](statement[0])
		if err != nil || string(attest.ExtraData.Buffer) != "nonce" {
			return fmt.Errorf("nonce: %w", err)
		}
	}
	certified, err := tpm2.Unmarshal[tpm2.TPMSAttest](s.certify[0])
	if err != nil {
		return err
	}
	info, err := certified.Attested.Certify()
	if err != nil || !bytes.Equal(info.Name.Buffer, s.key.Name()) {
		return fmt.Errorf("certified Name: %w", err)
	}
	if !ecdsa.VerifyASN1(s.key.Public().(*ecdsa.PublicKey), s.digest[:], s.signed) {
		return errors.New("signature of the key")
	}
	return s.checkPCRs()
}

func (s shown) checkPCRs() error {
	quoted, err := tpm2.Unmarshal[tpm2.TPMSAttest](s.quote[0])
	if err != nil {
		return err
	}
	info, err := quoted.Attested.Quote()
	if err != nil {
		return err
	}
	all := sha256.New()
	for _, pcr := range pcrs() {
		value := s.pcrs[pcr]
		all.Write(value[:])
	}
	if !bytes.Equal(info.PCRDigest.Buffer, all.Sum(nil)) {
		return errors.New("PCR values")
	}
	return nil
}

func validSignature(k *tpm.Key, statement, sig []byte) bool {
	parsed, err := tpm2.Unmarshal[tpm2.TPMTSignature](sig)
	if err != nil {
		return false
	}
	ecc, err := parsed.Signature.ECDSA()
	if err != nil {
		return false
	}
	digest := sha256.Sum256(statement)
	return ecdsa.Verify(k.Public().(*ecdsa.PublicKey), digest[:],
		new(big.Int).SetBytes(ecc.SignatureR.Buffer), new(big.Int).SetBytes(ecc.SignatureS.Buffer))
}

// TestWhoAltersTheBusGainsNothing: a bit changed at any place of any command or
// answer of a whole enrolment gives an error, evidence that a fleet refuses, or the
// truth: the keys shown are those of the chip. He can deny service, as anybody can
// who holds the bus.
func TestWhoAltersTheBusGainsNothing(t *testing.T) {
	t.Parallel()
	_, power := tpmtest.Start(t)
	honest, faults := connect(t, power)
	ek := must(honest.EK(t.Context(), "ecc-p256"))(t)
	faults.Reset()
	if s, err := show(t.Context(), t, honest, ek); err != nil || s.believed(ek) != nil {
		t.Fatalf("untouched: %v, %v", err, s.believed(ek))
	}
	commands := len(faults.Codes()) + 2 // that connection had found the EK already
	_ = honest.Close()
	counts := make(map[string]int)
	for i := range times(1500) {
		n, fault := 1+i%commands, tpmtest.FlipBit(37*i, i%8, i/commands%2 == 1)
		counts[interpose(t, power, ek, n, fault)]++
	}
	t.Logf("%v", counts)
	if counts["error"] == 0 || counts["refused"] == 0 || counts["true"] == 0 {
		t.Errorf("nothing was altered, or everything: %v", counts)
	}
}

// interpose runs an enrolment with a fault at its nth command and says how it ended.
func interpose(t *testing.T, power *tpmtest.Power, ek *tpm.EK, n int, fault tpmtest.Fault) string {
	t.Helper()
	chip, faults := connect(t, power)
	defer chip.Close()
	faults.At(n, fault)
	ctx, cancel := context.WithTimeout(t.Context(), hung)
	defer cancel()
	s, err := show(ctx, t, chip, ek)
	if ctx.Err() != nil {
		t.Fatalf("command %d: hangs", n)
	}
	if err != nil {
		return "error"
	}
	if s.believed(ek) != nil {
		return "refused"
	}
	clean, _ := connect(t, power)
	defer clean.Close()
	for _, k := range []*tpm.Key{s.ak, s.key} {
		loaded, err := clean.LoadKey(ctx, k.PEM())
		if errors.Is(err, tpm.ErrReplaced) {
			return "lost" // made under another storage key: said at the next start, and enrolled again
		}
		if err != nil || !bytes.Equal(loaded.Name(), k.Name()) {
			t.Fatalf("command %d: the fleet believed in a key that the chip does not have: %v", n, err)
		}
	}
	if !bytes.Equal(s.reloaded, s.key.Name()) {
		t.Fatalf("command %d: another key came back from the file", n)
	}
	return "true"
}
