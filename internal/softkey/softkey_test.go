package softkey

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"net"
	"os"
	"path/filepath"
	"testing"
)

func firstKey(t *testing.T, curve elliptic.Curve) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return key, public
}

// TestNameOfAFirstKeyIsNoEndorsementKeys: those begin with a hash algorithm's number.
// The value is fixed: device ids hang on it.
func TestNameOfAFirstKeyIsNoEndorsementKeys(t *testing.T) {
	name := Name([]byte("key"))
	if hex.EncodeToString(name) != "ffff51022937484b3ef41b7d26dcd7e3bd23287d352aef488f7094996368c4bd8cbb" {
		t.Errorf("name %x", name)
	}
	if bytes.Equal(name, Name([]byte("kez"))) {
		t.Error("two keys, one name")
	}
}

// TestStatementsStandForOnePurposeEach: no signature is of use where another is asked
// for, in another fleet, or for another ticket.
func TestStatementsStandForOnePurposeEach(t *testing.T) {
	seen := map[string]string{}
	for what, digest := range map[string][]byte{
		"certify": Certify("lab", []byte("x")), "certify in another fleet": Certify("la", []byte("bx")), "certify another": Certify("lab", []byte("y")),
		"admit": Admit("lab", "t", []byte("x")), "admit by another ticket": Admit("lab", "u", []byte("x")), "admit in another fleet": Admit("labt", "", []byte("x")),
		"admit over another nonce": Admit("lab", "t", []byte("y")),
	} {
		if other, ok := seen[string(digest)]; ok {
			t.Errorf("%s is %s", what, other)
		}
		seen[string(digest)] = what
	}
}

func TestOnlyACanonicalP256KeyIsAFirstKey(t *testing.T) {
	key, public := firstKey(t, elliptic.P256())
	digest := Certify("lab", []byte("csr"))
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(public, digest, signature); err != nil {
		t.Fatal(err)
	}
	_, p384 := firstKey(t, elliptic.P384())
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaPublic, err := x509.MarshalPKIXPublicKey(rsaKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	long := append([]byte{0x30, 0x81, public[1]}, public[2:]...) // another encoding of the length: a second name
	for what, bad := range map[string][]byte{"P-384": p384, "RSA": rsaPublic, "padded": append(bytes.Clone(public), 0), "long form": long, "cut": public[:50], "nothing": nil} {
		if _, err := Parse(bad); err == nil {
			t.Errorf("%s was taken", what)
		}
	}
	_, other := firstKey(t, elliptic.P256())
	if Verify(other, digest, signature) == nil || Verify(public, Certify("lab", nil), signature) == nil || Verify(public, digest, signature[1:]) == nil {
		t.Error("a signature that is none was taken")
	}
}

// TestWhateverIsThereMayBeATPM: only nothing at all is none.
func TestWhateverIsThereMayBeATPM(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Symlink("nowhere", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for path, none := range map[string]bool{
		filepath.Join(dir, "none"): true, "unix:" + filepath.Join(dir, "none"): true, "swtpm:" + filepath.Join(dir, "none"): true,
		"unix:" + socket: false, filepath.Join(dir, "link"): false, "/dev/null": false, filepath.Join(socket, "below"): false,
	} {
		if NoTPM(path) != none {
			t.Errorf("no TPM at %s: %t, want %t", path, !none, none)
		}
	}
}
