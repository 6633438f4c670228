package tpm_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

func write(t *testing.T, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func publicPEM(t *testing.T, key any) []byte {
	t.Helper()
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(key))(t)})
}

// TestCheckquoteAcceptsOurQuoteAndNoAlteredOne.
func TestCheckquoteAcceptsOurQuoteAndNoAlteredOne(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip, _ := connect(t, power)
	ak := must(chip.CreateKey(t.Context(), tpm.AK))(t)
	nonce := sha256.Sum256([]byte("nonce"))
	quote, sig, err := chip.Quote(t.Context(), ak, nonce[:], pcrs())
	if err != nil {
		t.Fatal(err)
	}
	check := func(quote, sig []byte, nonce string) error {
		dir := t.TempDir()
		return tpmtest.Tool(t, "", dir, "tpm2_checkquote", "-u", write(t, dir, "ak.pem", publicPEM(t, ak.Public())),
			"-m", write(t, dir, "quote", quote), "-s", write(t, dir, "sig", sig), "-g", "sha256", "-q", nonce).Run()
	}
	good := hex.EncodeToString(nonce[:])
	if err := check(quote, sig, good); err != nil {
		t.Fatalf("refused: %v", err)
	}
	altered := bytes.Clone(quote)
	altered[len(altered)-1] ^= 1
	if check(altered, sig, good) == nil {
		t.Error("accepted an altered quote")
	}
	altered = bytes.Clone(sig)
	altered[len(altered)-1] ^= 1
	if check(quote, altered, good) == nil {
		t.Error("accepted an altered signature")
	}
	if check(quote, sig, "00"+good[2:]) == nil {
		t.Error("accepted another nonce")
	}
}

// TestWeActivateWhatMakecredentialMade, for each kind of EK that it knows.
func TestWeActivateWhatMakecredentialMade(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip, _ := connect(t, power)
	ak := must(chip.CreateKey(t.Context(), tpm.AK))(t)
	for _, kind := range []string{"rsa2048", "ecc-p256"} {
		ek := must(chip.EK(t.Context(), kind))(t)
		area := must(tpm2.Unmarshal[tpm2.TPMTPublic](ek.Public))(t)
		dir := t.TempDir()
		out := filepath.Join(dir, "credential")
		cmd := tpmtest.Tool(t, "", dir, "tpm2_makecredential", "-T", "none", "-e", write(t, dir, "ek", tpm2.Marshal(tpm2.New2B(*area))),
			"-s", write(t, dir, "secret", []byte("the ticket")), "-n", hex.EncodeToString(ak.Name()), "-o", out)
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", kind, err, text)
		}
		blob, secret := splitCredential(t, must(os.ReadFile(out))(t))
		if got := must(chip.Activate(t.Context(), ek, ak, blob, secret))(t); string(got) != "the ticket" {
			t.Fatalf("%s: recovered %q", kind, got)
		}
	}
}

// splitCredential reads the file format of tpm2-tools: magic, version, two TPM2Bs.
func splitCredential(t *testing.T, file []byte) (blob, secret []byte) {
	t.Helper()
	if len(file) < 8 || binary.BigEndian.Uint32(file) != 0xbadcc0de {
		t.Fatalf("credential file begins with %x", file[:min(8, len(file))])
	}
	file = file[8:]
	n := int(binary.BigEndian.Uint16(file))
	blob, file = file[2:2+n], file[2+n:]
	return blob, file[2 : 2+int(binary.BigEndian.Uint16(file))]
}

// TestToolsReadOurKeyFileAndQuote, and see in them what we see.
func TestToolsReadOurKeyFileAndQuote(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip, _ := connect(t, power)
	ak := must(chip.CreateKey(t.Context(), tpm.AK))(t)
	quote, _, err := chip.Quote(t.Context(), ak, []byte("qualifying"), pcrs())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, dir, "ak.pem", ak.PEM())
	write(t, dir, "quote", quote)
	print := func(args ...string) []byte {
		out, err := tpmtest.Tool(t, "", dir, "tpm2_print", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
		return out
	}
	if got := print("-t", "TSSPRIVKEY_OBJ", "-f", "pem", "ak.pem"); !bytes.Equal(got, publicPEM(t, ak.Public())) {
		t.Errorf("another key:\n%s", got)
	}
	text := string(print("-t", "TPMS_ATTEST", "quote"))
	for _, want := range []string{"ff544347", "extraData: " + hex.EncodeToString([]byte("qualifying")), "hash: 11 (sha256)", "pcrSelect: ff7f00"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// TestToolsReadTheSameCertificate from the same shared chip.
func TestToolsReadTheSameCertificate(t *testing.T) {
	t.Parallel()
	_, power := tpmtest.StartManufactured(t)
	chip, _ := connect(t, power)
	ek := must(chip.EK(t.Context(), ""))(t)
	if got := must(tpmtest.Tool(t, power.Socket, "", "tpm2_nvread", "0x01c00002").Output())(t); !bytes.HasPrefix(got, ek.Certificate) {
		t.Fatal("another certificate")
	}
}
