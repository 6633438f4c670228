package attest

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// modsigEntry encodes an entry of template ima-modsig for a file with an appended
// signature, as the kernel does.
func modsigEntry(path string, whole Digest, name string, digest, modsig []byte) ([]byte, Digest) {
	data := appendIMAField(nil, append([]byte("sha256:\x00"), whole[:]...))
	data = appendIMAField(data, []byte(path+"\x00"))
	data = appendIMAField(data, nil)
	data = appendIMAField(data, append([]byte(name+":\x00"), digest...))
	data = appendIMAField(data, modsig)
	return appendIMA(nil, "ima-modsig", data), hashOf(data)
}

// cutModule takes a signature off a file as mod_check_sig does (Linux,
// kernel/module_signature.c): a marker, before it 12 bytes that end with the length.
func cutModule(t testing.TB, signed []byte) (file, modsig []byte) {
	t.Helper()
	rest, ok := bytes.CutSuffix(signed, []byte("~Module signature appended~\n"))
	if !ok {
		t.Fatal("no signature is appended")
	}
	rest, info := rest[:len(rest)-12], rest[len(rest)-12:]
	at := len(rest) - int(binary.BigEndian.Uint32(info[8:]))
	return rest[:at], rest[at:]
}

// testdata/modsig was made by the kernel's own scripts/sign-file (Linux 6.1).
func TestModuleThatSignFileSignedIsAllowedByItsCertificate(t *testing.T) {
	signed, certificate := readFile(t, "testdata/modsig/module.signed"), string(readFile(t, "testdata/modsig/certificate.pem"))
	file, modsig := cutModule(t, signed)
	l := newLab(t)
	l.withIMA(0)
	l.allow("", certificate)
	digest := hashOf(file)
	entry, extend := modsigEntry("/lib/modules/m.ko", hashOf(signed), "sha256", digest[:], modsig)
	l.ima, l.pcr10 = append(l.ima, entry...), Extend(l.pcr10, extend)
	l.want(l.evidence(), Trusted, "")
	l.allow("", newSigner(t, "rsa:2048").pem)
	l.want(l.evidence(), Untrusted, "it is not listed, and its appended signature is by a key that is not trusted")

	r := mustReference(t, "", certificate)
	signer, err := readModsig(modsig)
	if err != nil {
		t.Fatal(err)
	}
	begin := bytes.Index(modsig, signer.Signature)
	for at := begin; at < begin+len(signer.Signature); at++ {
		changed := slices.Clone(modsig)
		changed[at] ^= 1
		if rule, _ := r.verifyModule(&imaEntry{modsig: changed, modDigest: append([]byte("sha256:\x00"), digest[:]...)}); rule != ruleIMASignatures {
			t.Errorf("byte %d of the signature may be another", at-begin)
		}
	}
	for at := range digest {
		changed := digest
		changed[at] ^= 1
		if rule, _ := r.verifyModule(&imaEntry{modsig: modsig, modDigest: append([]byte("sha256:\x00"), changed[:]...)}); rule != ruleIMASignatures {
			t.Errorf("byte %d of the digest may be another", at)
		}
	}
}

// cms signs a file as sign-file does, but for what args say.
func (s *signer) cms(contents []byte, hash string, args ...string) []byte {
	s.t.Helper()
	file, out := filepath.Join(s.dir, "module"), filepath.Join(s.dir, "module.p7s")
	if err := os.WriteFile(file, contents, 0o600); err != nil {
		s.t.Fatal(err)
	}
	run(s.t, "openssl", append([]string{"cms", "-sign", "-binary", "-in", file, "-out", out, "-outform", "DER", "-md", hash,
		"-signer", filepath.Join(s.dir, "certificate.pem"), "-inkey", s.key()}, args...)...)
	return readFile(s.t, out)
}

func TestAppendedSignaturesAreReadAsOpenSSLMakesThem(t *testing.T) {
	module := []byte("a module")
	sums := map[string]func() []byte{
		"sha256": func() []byte { return sha256Sum(module) },
		"sha384": func() []byte { s := sha512.Sum384(module); return s[:] },
		"sha512": func() []byte { s := sha512.Sum512(module); return s[:] },
	}
	entry := func(hash string, modsig []byte) *imaEntry {
		whole := sha256.Sum256([]byte("module and signature"))
		return &imaEntry{algorithm: []byte("sha256"), digest: whole[:], path: []byte("/m.ko"), modsig: modsig, modDigest: append([]byte(hash+":\x00"), sums[hash]()...)}
	}
	for _, kind := range [][]string{{"rsa:2048"}, {"ec", "-pkeyopt", "ec_paramgen_curve:P-256"}, {"ec", "-pkeyopt", "ec_paramgen_curve:P-384"}} {
		s := newSigner(t, kind...)
		r, bare := mustReference(t, "", s.pem), mustReference(t, "", s.publicKey())
		try := func(r *imaReference, e *imaEntry, want, text string) {
			t.Helper()
			if rule, why := r.judge(e); rule != want || !strings.Contains(why, text) {
				t.Errorf("%s: %q, %s; want %q", kind, rule, why, want)
			}
		}
		for hash := range sums {
			try(r, entry(hash, s.cms(module, hash, "-noattr", "-nocerts")), "", "")
			try(r, entry(hash, s.cms(module, hash, "-noattr", "-nocerts", "-keyid")), "", "")
		}
		try(r, entry("sha256", s.cms(module, "sha256", "-noattr")), "", "") // with the certificate
		try(bare, entry("sha256", s.cms(module, "sha256", "-noattr", "-nocerts", "-keyid")), "", "")
		try(bare, entry("sha256", s.cms(module, "sha256", "-noattr", "-nocerts")), ruleIMAFiles, "not trusted") // it names the certificate
		try(r, entry("sha512", s.cms(module, "sha256", "-noattr", "-nocerts")), ruleIMAFiles, "another hash than was measured")
		try(r, entry("sha256", s.cms(module, "sha1", "-noattr", "-nocerts")), ruleIMAFiles, "not SHA-256")
		try(r, entry("sha256", s.cms(module, "sha256")), ruleIMASignatures, "over attributes")
		try(r, entry("sha256", s.cms(module, "sha256", "-noattr", "-nodetach")), ruleIMASignatures, "content of its own")
		try(r, entry("sha256", s.cms([]byte("another"), "sha256", "-noattr")), ruleIMASignatures, "does not verify")
		try(r, entry("sha256", append(s.cms(module, "sha256", "-noattr"), 0)), ruleIMASignatures, "1 bytes behind it")
		// A listed file needs no signature.
		e := entry("sha256", []byte("none"))
		try(mustReference(t, Digest(e.digest).String()+"  /m.ko"), e, "", "")
	}
}

// Property: no appended signature verifies but by a configured key.
func FuzzModsig(f *testing.F) {
	_, modsig := cutModule(f, readFile(f, "testdata/modsig/module.signed"))
	f.Add(modsig)
	r := mustReference(f, "", string(readFile(f, "testdata/modsig/certificate.pem")))
	digest := sha256Sum([]byte("another file"))
	f.Fuzz(func(t *testing.T, modsig []byte) {
		if rule, _ := r.verifyModule(&imaEntry{modsig: modsig, modDigest: append([]byte("sha256:\x00"), digest...)}); rule == "" {
			t.Fatalf("%x verifies", modsig)
		}
	})
}
