package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func reference(t *testing.T, list, keys string) *IMAReference {
	t.Helper()
	r, err := NewIMAReference([]byte(list), []byte(keys))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFileThatIsNotListedDistrustsForTheWholeBoot(t *testing.T) {
	l := newLab(t)
	l.withIMA(2)
	list := fmt.Sprintf("# files\n%s  /usr/bin/file-0\n%s */usr/bin/file-1\n%s  /opt/with space\n",
		hashOf([]byte("0")), hashOf([]byte("1")), hashOf([]byte("2")))
	l.expect.IMA = reference(t, list, "")
	l.runs("/opt/with_space", []byte("2"))
	good := l.want(l.evidence(), Trusted, "")
	if f := good.Facts().IMA; !f.Judged || f.Unlisted != 0 || f.Entries != 4 {
		t.Errorf("facts %+v", f)
	}
	l.runs("/usr/bin/file-0", []byte("1")) // a listed file under the name of another
	bad := l.want(l.goingOn(good), Untrusted, "one file without leave: /usr/bin/file-0 (entry 4, PCR 10, it is not listed, and not signed)")
	l.runs("/usr/bin/file-1", []byte("1"))
	bad = l.want(l.goingOn(bad), Untrusted, "one file without leave")
	l.ima, l.pcr10 = nil, Digest{}
	l.want(l.evidence(), Untrusted, "IMA: no list was given")
	// Another reference has not judged what was read: the list is wanted whole.
	if _, _, ok := bad.Remember(nil).IMA.Held(reference(t, list+"\n", "")); ok {
		t.Error("another reference takes the state of the first")
	}
	if _, _, ok := bad.Remember(nil).IMA.Held(nil); ok {
		t.Error("no reference takes the state of one")
	}
}

func TestViolationHasNoLeave(t *testing.T) {
	l := newLab(t)
	l.withIMA(0)
	l.expect.IMA = reference(t, hashOf([]byte("0")).String()+"  /x", "")
	entry, _ := encodeIMA("ima-ng", hashOf([]byte("0")), "/x")
	copy(entry[4:24], make([]byte, 20))
	l.ima, l.pcr10 = append(l.ima, entry...), Extend(l.pcr10, Digest(bytes.Repeat([]byte{0xff}, 32)))
	l.want(l.evidence(), Untrusted, "it was written while it was measured")
}

func TestAllowListIsReadStrictly(t *testing.T) {
	for list, want := range map[string]string{
		"da39a3ee5e6b4b0d3255bfef95601890afd80709  /x":            "SHA-1, which can be forged",
		strings.Repeat("g", 64) + "  /x":                          "line 1",
		strings.Repeat("a", 62) + "  /x":                          "line 1",
		"# only a remark\n":                                       "it allows no file",
		strings.Repeat("a", 64):                                   "path of 0 bytes",
		strings.Repeat("a", 64) + " " + strings.Repeat("p", 5000): "path of 5000 bytes",
	} {
		if _, err := NewIMAReference([]byte(list), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80q: %v, want %q", list, err, want)
		}
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&p521.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for keys, want := range map[string]string{
		string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})): "P-521",
		"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n":        "PRIVATE KEY",
		"not PEM": "text that is not PEM",
	} {
		if _, err := NewIMAReference(nil, []byte(keys)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.30q: %v, want %q", keys, err, want)
		}
	}
}

// signer signs files as a distribution does: with evmctl, which the kernel trusts.
type signer struct {
	t   *testing.T
	dir string
	pem string // of the public key or certificate
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func newSigner(t *testing.T, kind ...string) *signer {
	t.Helper()
	s := &signer{t: t, dir: t.TempDir()}
	key, certificate := filepath.Join(s.dir, "key.pem"), filepath.Join(s.dir, "certificate.pem")
	run(t, "openssl", append(append([]string{"req", "-x509", "-nodes", "-subj", "/CN=files", "-keyout", key, "-out", certificate}, "-newkey"), kind...)...)
	s.pem = string(readFile(t, certificate))
	return s
}

func (s *signer) key() string { return filepath.Join(s.dir, "key.pem") }

// publicKey is the bare key.
func (s *signer) publicKey() string {
	out := filepath.Join(s.dir, "public.pem")
	run(s.t, "openssl", "pkey", "-in", s.key(), "-pubout", "-out", out)
	return string(readFile(s.t, out))
}

// sign returns what the kernel would find in security.ima of a file.
func (s *signer) sign(contents []byte, hash string) []byte {
	s.t.Helper()
	file := filepath.Join(s.dir, "file")
	if err := os.WriteFile(file, contents, 0o600); err != nil {
		s.t.Fatal(err)
	}
	run(s.t, "evmctl", "ima_sign", "--hashalgo", hash, "--key", s.key(), "--sigfile", "--xattr-user", file)
	return readFile(s.t, file+".sig")
}

// signedEntry encodes an entry of template ima-sig.
func signedEntry(path string, digest Digest, signature []byte) ([]byte, Digest) {
	data := appendIMAField(nil, append([]byte("sha256:\x00"), digest[:]...))
	data = appendIMAField(data, []byte(path+"\x00"))
	data = appendIMAField(data, signature)
	return appendIMA(nil, "ima-sig", data), hashOf(data)
}

func TestSignedFileIsAllowedByItsKeyAlone(t *testing.T) {
	kinds := map[string][]string{
		"P-256": {"ec", "-pkeyopt", "ec_paramgen_curve:P-256"}, "RSA": {"rsa:2048"}, "P-384": {"ec", "-pkeyopt", "ec_paramgen_curve:P-384"},
	}
	stranger := newSigner(t, "rsa:2048")
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			s := newSigner(t, kind...)
			contents := []byte("a program")
			signature := s.sign(contents, "sha256")
			l := newLab(t)
			try := func(keys string, digest Digest, signature []byte, grade Grade, text string) {
				t.Helper()
				l.withIMA(0)
				l.expect.IMA = reference(t, "", keys)
				entry, extend := signedEntry("/usr/bin/program", digest, signature)
				l.ima, l.pcr10 = append(l.ima, entry...), Extend(l.pcr10, extend)
				l.want(l.evidence(), grade, text)
				l.want(l.evidence(), grade, text) // from what is remembered
			}
			try(s.pem, hashOf(contents), signature, Trusted, "")
			try(stranger.pem+s.pem, hashOf(contents), signature, Trusted, "")
			try(stranger.pem, hashOf(contents), signature, Untrusted, "which is not trusted")
			try(s.pem, hashOf([]byte("another")), signature, Untrusted, "its signature does not verify")
			try(s.pem, hashOf(contents), signature[:len(signature)-1], Untrusted, "its signature can't be read")
			try(s.pem, hashOf(contents), s.sign(contents, "sha512"), Untrusted, "over another hash than was measured")
			r, digest := reference(t, "", s.pem), hashOf(contents)
			for at := range signature {
				changed := slices.Clone(signature)
				changed[at] ^= 1
				e := &imaEntry{algorithm: []byte("sha256"), digest: digest[:], path: []byte("/x"), signature: changed}
				if r.refuses(e) == "" {
					t.Errorf("byte %d may be another", at)
				}
			}
		})
	}
}

// The name that a signature calls its key by is that of evmctl, for a bare key and
// for a certificate.
func TestKeyIsFoundByTheNameThatEvmctlGivesIt(t *testing.T) {
	for _, kind := range [][]string{{"rsa:2048"}, {"ec", "-pkeyopt", "ec_paramgen_curve:P-256"}} {
		s := newSigner(t, kind...)
		e := &imaEntry{algorithm: []byte("sha256"), digest: sha256Sum([]byte("x")), path: []byte("/x"), signature: s.sign([]byte("x"), "sha256")}
		for form, keys := range map[string]string{"key": s.publicKey(), "certificate": s.pem} {
			if why := reference(t, "", keys).refuses(e); why != "" {
				t.Errorf("%s: %s", form, why)
			}
		}
	}
}

// Version 3 of signatures is over a structure, ima_file_id (Linux,
// security/integrity/integrity.h): kind, hash and digest.
func TestSignatureOfFsVerityIsOverItsKind(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	block, _ := pem.Decode(public)
	id, _, err := readFileKey(block)
	if err != nil {
		t.Fatal(err)
	}
	digest := hashOf([]byte("tree"))
	over := hashOf(append([]byte{6, 4}, digest[:]...))
	der, err := ecdsa.SignASN1(rand.Reader, key, over[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := append([]byte{6, 3, 4}, id[:]...)
	signature = append(binary.BigEndian.AppendUint16(signature, uint16(len(der))), der...)
	r := reference(t, "", string(public))
	e := &imaEntry{kind: []byte("verity"), algorithm: []byte("sha256"), digest: digest[:], path: []byte("/x"), signature: signature}
	if why := r.refuses(e); why != "" {
		t.Error(why)
	}
	e.kind = []byte("ima")
	if r.refuses(e) == "" {
		t.Error("a signature of fs-verity passes for one of the file's hash")
	}
	e.kind, e.algorithm = []byte("verity"), []byte("sha512")
	if r.refuses(e) == "" {
		t.Error("another hash passes")
	}
}
