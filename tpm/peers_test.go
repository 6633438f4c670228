package tpm_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// tpm2tool finds a program of tpm2-tools.
func tpm2tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not installed", name)
		}
		t.Skipf("%s is not installed: run \"make setup\"", name)
	}
	return path
}

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
	checkquote := tpm2tool(t, "tpm2_checkquote")
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
		return exec.Command(checkquote, "-u", write(t, dir, "ak.pem", publicPEM(t, ak.Public())),
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
	makecredential := tpm2tool(t, "tpm2_makecredential")
	_, power := tpmtest.Start(t)
	chip, _ := connect(t, power)
	ak := must(chip.CreateKey(t.Context(), tpm.AK))(t)
	for _, kind := range []string{"rsa2048", "ecc-p256"} {
		ek := must(chip.EK(t.Context(), kind))(t)
		area := must(tpm2.Unmarshal[tpm2.TPMTPublic](ek.Public))(t)
		dir := t.TempDir()
		out := filepath.Join(dir, "credential")
		cmd := exec.Command(makecredential, "-T", "none", "-e", write(t, dir, "ek", tpm2.Marshal(tpm2.New2B(*area))),
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

// TestToolsReadTheSameCertificate from the same shared chip.
func TestToolsReadTheSameCertificate(t *testing.T) {
	t.Parallel()
	nvread := tpm2tool(t, "tpm2_nvread")
	_, power := tpmtest.StartManufactured(t)
	chip, _ := connect(t, power)
	ek := must(chip.EK(t.Context(), ""))(t)
	cmd := exec.Command(nvread, "0x01c00002", "-T", "cmd:"+must(os.Executable())(t))
	cmd.Env = append(os.Environ(), bridgeTo+"="+power.Socket)
	if got := must(cmd.Output())(t); !bytes.HasPrefix(got, ek.Certificate) {
		t.Fatal("another certificate")
	}
}

// bridgeTo names the environment variable that makes this program connect its
// standard input and output to a socket, for tools that start a command.
const bridgeTo = "GATEWARDEN_TEST_BRIDGE"

func TestMain(m *testing.M) {
	socket := os.Getenv(bridgeTo)
	if socket == "" {
		os.Exit(m.Run())
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		os.Exit(1)
	}
	go func() {
		_, _ = io.Copy(conn, os.Stdin)
		os.Exit(0)
	}()
	_, _ = io.Copy(os.Stdout, conn)
}
