package attest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// reference compiles a list, where it is not empty, and keys.
func reference(t testing.TB, list string, keys ...string) (*imaReference, error) {
	t.Helper()
	p := &IMAPolicy{Keys: keys}
	if list != "" {
		p.Lists = []Digest{hashOf([]byte(list))}
	}
	return newIMAReference(p, p.digest(), func(Digest) ([]byte, error) { return []byte(list), nil })
}

func mustReference(t testing.TB, list string, keys ...string) *imaReference {
	t.Helper()
	r, err := reference(t, list, keys...)
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
	l.allow(list)
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
	l.want(l.evidence(), Untrusted, "IMA: no list was given (and 1 more)")
	// Others have not judged what was read: the list is wanted whole.
	l.allow(list + "\n")
	if _, _, ok := bad.Remember(nil).IMA.Held(l.parsed()); ok {
		t.Error("another list takes the state of the first")
	}
	l.policy.IMA = nil
	if _, _, ok := bad.Remember(nil).IMA.Held(l.parsed()); ok {
		t.Error("no list takes the state of one")
	}
}

// What each kind of file costs is the owner's to say, and so are exceptions.
func TestUnknownFilesBadSignaturesAndViolationsCostWhatThePolicySays(t *testing.T) {
	s := newSigner(t, "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
	signature := s.sign([]byte("a program"), "sha256")
	breaks := map[string]func(*lab){
		ruleIMAFiles:      func(l *lab) { l.runs("/usr/bin/unknown", []byte("?")) },
		ruleIMAViolations: func(l *lab) { l.violates("/usr/bin/file-0") },
		ruleIMASignatures: func(l *lab) {
			entry, extend := signedEntry("/usr/bin/program", hashOf([]byte("altered")), signature)
			l.ima, l.pcr10 = append(l.ima, entry...), Extend(l.pcr10, extend)
		},
	}
	for rule, act := range breaks {
		l := newLab(t)
		l.withIMA(1)
		l.allow(hashOf([]byte("0")).String()+"  /usr/bin/file-0\n", s.pem)
		l.want(l.evidence(), Trusted, "")
		act(l)
		for severity, grade := range map[Severity]Grade{Distrust: Untrusted, Degrade: Degraded, Info: Trusted} {
			l.policy.Rules = map[string]Severity{rule: severity}
			r := l.want(l.evidence(), grade, "")
			for _, result := range r.Rules() {
				if result.OK == (result.Rule == rule) && strings.HasPrefix(result.Rule, ruleIMA) {
					t.Errorf("%s broken: %+v", rule, result)
				}
			}
		}
		l.policy.Rules = nil
		l.want(l.evidence(), Untrusted, "")
		l.policy.Exceptions = []Exception{{Rule: rule, Reason: "bench", Expires: labNow().Add(time.Hour), Device: labDevice}}
		l.want(l.evidence(), Trusted, "")
		// None of them matters to a policy that says nothing of files.
		l.policy.IMA, l.policy.Exceptions = nil, nil
		l.want(l.evidence(), Trusted, "")
	}
}

// A rule about files can't be dodged by a list that proves nothing.
func TestFilesAreUnknownWithoutAListThatHolds(t *testing.T) {
	l := newLab(t)
	l.withIMA(1)
	l.allow(hashOf([]byte("0")).String() + "  /usr/bin/file-0\n")
	l.policy.Rules = map[string]Severity{ruleIMA: Info}
	l.want(l.evidence(), Trusted, "")
	good, aggregate := l.ima, l.pcr10
	for name, spoil := range map[string]func(){
		"no list":      func() { l.ima = nil },
		"cut list":     func() { l.ima = good[:len(good)-1] },
		"another list": func() { l.pcr10[0] ^= 1 },
		"another boot": func() { l.ima, l.pcr10 = nil, Digest{}; l.bootedAs(Digest{5}) },
	} {
		l.ima, l.pcr10 = good, aggregate
		spoil()
		r := l.want(l.evidence(), Untrusted, "IMA: which files were run is unknown")
		if t.Failed() {
			t.Fatalf("%s: %v", name, r.Explanation())
		}
	}
}

// Policies that name the same lists and keys share them: they are compiled once.
func TestListsAreCompiledOnceAndHeldAgainstTheirDigests(t *testing.T) {
	l := newLab(t)
	l.allow(hashOf([]byte("0")).String() + "  /x\n")
	first, second := l.parsed(), l.parsed()
	if err := second.ReadLists(func(Digest) ([]byte, error) { return nil, errors.New("read again") }, first); err != nil || second.files != first.files {
		t.Errorf("not shared: %v", err)
	}
	l.policy.IMA.Lists = append(l.policy.IMA.Lists, Digest{7})
	data, err := json.Marshal(l.policy)
	if err != nil {
		t.Fatal(err)
	}
	third, err := ParsePolicy(data)
	if err != nil {
		t.Fatal(err)
	}
	if err := third.ReadLists(l.readList, first); err == nil || !strings.Contains(err.Error(), "list 07000000") {
		t.Errorf("a missing list: %v", err)
	}
	l.expect.Policy = third
	if _, err := Verify(l.evidence(), l.expect); err == nil || !strings.Contains(err.Error(), "ReadLists comes first") {
		t.Errorf("judged by a policy without its lists: %v", err)
	}
	l.lists[Digest{7}] = l.lists[l.policy.IMA.Lists[0]]
	if err := third.ReadLists(l.readList, first); err == nil || !strings.Contains(err.Error(), "another SHA-256") {
		t.Errorf("a list under a false name: %v", err)
	}
}

func TestIMAOfAPolicyIsReadStrictly(t *testing.T) {
	key := newSigner(t, "ec", "-pkeyopt", "ec_paramgen_curve:P-256").pem
	quoted, err := json.Marshal(key)
	if err != nil {
		t.Fatal(err)
	}
	list := `"` + strings.Repeat("ab", 32) + `"`
	for text, want := range map[string]string{
		`{}`:                "needs lists, keys or both",
		`{"lists":[]}`:      "needs lists, keys or both",
		`{"lists":["xyz"]}`: "64 lower-case hex digits",
		`{"lists":["` + Digest{}.String() + `"]}`:                                    "no digest",
		`{"lists":[` + list + `,` + list + `]}`:                                      "occurs twice",
		`{"lists":[` + list + `],"folder":"x"}`:                                      `unknown field "folder"`,
		`{"keys":["x"]}`:                                                             "key 1: it is not one PEM",
		`{"keys":[` + string(quoted[:len(quoted)-1]) + `trailing"]}`:                 "key 1: it is not one PEM",
		`{"keys":["text ` + string(quoted[1:]) + `]}`:                                "key 1: it is not one PEM",
		`{"keys":[` + strings.Repeat(string(quoted)+",", 64) + string(quoted) + `]}`: "at most 64 and 64",
	} {
		l := newLab(t)
		data, err := json.Marshal(l.policy)
		if err != nil {
			t.Fatal(err)
		}
		data = append(data[:len(data)-1], []byte(`,"ima":`+text+`}`)...)
		if _, err := ParsePolicy(data); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want %q", text, err, want)
		}
	}
}

func TestAllowListIsReadStrictly(t *testing.T) {
	for list, want := range map[string]string{
		"da39a3ee5e6b4b0d3255bfef95601890afd80709  /x":            "SHA-1, which can be forged",
		strings.Repeat("g", 64) + "  /x":                          "line 1",
		strings.Repeat("a", 62) + "  /x":                          "line 1",
		"# only a remark\n":                                       "it lists no file",
		strings.Repeat("a", 64):                                   "path of 0 bytes",
		strings.Repeat("a", 64) + " " + strings.Repeat("p", 5000): "path of 5000 bytes",
	} {
		if _, err := reference(t, list); err == nil || !strings.Contains(err.Error(), want) {
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
		"not PEM": "it is not one PEM",
	} {
		if _, err := reference(t, "", keys); err == nil || !strings.Contains(err.Error(), want) {
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
			try := func(keys []string, digest Digest, signature []byte, grade Grade, text string) {
				t.Helper()
				l.withIMA(0)
				l.allow("", keys...)
				entry, extend := signedEntry("/usr/bin/program", digest, signature)
				l.ima, l.pcr10 = append(l.ima, entry...), Extend(l.pcr10, extend)
				l.want(l.evidence(), grade, text)
				l.want(l.evidence(), grade, text) // from what is remembered
			}
			try([]string{s.pem}, hashOf(contents), signature, Trusted, "")
			try([]string{stranger.pem, s.pem}, hashOf(contents), signature, Trusted, "")
			try([]string{stranger.pem}, hashOf(contents), signature, Untrusted, "which is not trusted")
			try([]string{s.pem}, hashOf([]byte("another")), signature, Untrusted, "its signature does not verify")
			try([]string{s.pem}, hashOf(contents), signature[:len(signature)-1], Untrusted, "its signature can't be read")
			try([]string{s.pem}, hashOf(contents), s.sign(contents, "sha512"), Untrusted, "over another hash than was measured")
			r, digest := mustReference(t, "", s.pem), hashOf(contents)
			for at := range signature {
				changed := slices.Clone(signature)
				changed[at] ^= 1
				e := &imaEntry{algorithm: []byte("sha256"), digest: digest[:], path: []byte("/x"), signature: changed}
				if rule, _ := r.judge(e); rule == "" {
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
			if _, why := mustReference(t, "", keys).judge(e); why != "" {
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
	named, err := readFileKey(string(public))
	if err != nil {
		t.Fatal(err)
	}
	digest := hashOf([]byte("tree"))
	over := hashOf(append([]byte{6, 4}, digest[:]...))
	der, err := ecdsa.SignASN1(rand.Reader, key, over[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := append([]byte{6, 3, 4}, named.id[len(named.id)-shortID:]...)
	signature = append(binary.BigEndian.AppendUint16(signature, uint16(len(der))), der...)
	r := mustReference(t, "", string(public))
	e := &imaEntry{kind: []byte("verity"), algorithm: []byte("sha256"), digest: digest[:], path: []byte("/x"), signature: signature}
	if _, why := r.judge(e); why != "" {
		t.Error(why)
	}
	e.kind = []byte("ima")
	if rule, _ := r.judge(e); rule == "" {
		t.Error("a signature of fs-verity passes for one of the file's hash")
	}
	e.kind, e.algorithm = []byte("verity"), []byte("sha512")
	if rule, _ := r.judge(e); rule == "" {
		t.Error("another hash passes")
	}
}
