package p256key

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/gatewarden/gatewarden/internal/fsx"
)

// TestReadsWhatTheStandardLibraryAndOpenSSLWrite.
func TestReadsWhatTheStandardLibraryAndOpenSSLWrite(t *testing.T) {
	for range 50 { // some scalars and coordinates begin with zeros
		want, der, err := New()
		if err != nil {
			t.Fatal(err)
		}
		if key, err := Parse(der); err != nil || !key.Equal(want) {
			t.Fatalf("%x: %v", der, err)
		}
		if parsed, err := x509.ParsePKCS8PrivateKey(der); err != nil || !want.Equal(parsed) {
			t.Fatalf("the standard library reads %x otherwise: %v", der, err)
		}
	}
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is missing: apt install openssl")
	}
	file := filepath.Join(t.TempDir(), "key.pem")
	if out, err := exec.Command("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := new(fsx.FS).ReadFile(file, 1<<10)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	if _, err := Parse(block.Bytes); err != nil {
		t.Errorf("of openssl: %v", err)
	}
}

// TestAllButOneP256KeyIsRefused: other algorithms, other curves, and every byte that
// is another.
func TestAllButOneP256KeyIsRefused(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]any{"RSA": rsaKey, "ed25519": edKey, "P-384": p384} {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(der); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	want, good, err := New()
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if key, err := Parse(bad); err == nil && !key.Equal(want) {
			t.Errorf("byte %d changed gave another key", i)
		}
		if _, err := Parse(good[:i]); err == nil {
			t.Errorf("%d bytes of it were taken", i)
		}
	}
	if _, err := Parse(append(good, 0)); err == nil {
		t.Error("a byte behind it was taken")
	}
}

func FuzzParse(f *testing.F) {
	_, der, err := New()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := Parse(data)
		if err != nil {
			return
		}
		parsed, err := x509.ParsePKCS8PrivateKey(data)
		if err != nil || !key.Equal(parsed) {
			t.Errorf("the standard library does not read this key: %v", err)
		}
	})
}
