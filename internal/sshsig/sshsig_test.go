package sshsig

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/internal/sshsig/sshsigtest"
)

const namespace = "gatewarden-command"

func TestSignaturesOfSSHKeygenHold(t *testing.T) {
	message := []byte("{\"v\":1}\n")
	for name, c := range map[string]struct{ key, sign []string }{
		"ed25519":        {key: []string{"-t", "ed25519"}},
		"ed25519 sha256": {key: []string{"-t", "ed25519"}, sign: []string{"-O", "hashalg=sha256"}},
		"P-256":          {key: []string{"-t", "ecdsa", "-b", "256"}},
		"P-384":          {key: []string{"-t", "ecdsa", "-b", "384"}},
		"RSA 2048":       {key: []string{"-t", "rsa", "-b", "2048"}},
		"RSA 3072":       {key: []string{"-t", "rsa", "-b", "3072"}},
	} {
		t.Run(name, func(t *testing.T) {
			file, line := newKey(t, c.key...)
			armored := keygenSign(t, file, namespace, message, c.sign...)
			want, err := ParseAuthorizedKey(line)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Verify(armored, message, namespace)
			if err != nil {
				t.Fatal(err)
			}
			if !got.Equal(want) || got.String()+" op@example.org" != line {
				t.Errorf("key is %s, want %s", got, line)
			}
			if out, _ := keygen(t, nil, "-l", "-f", file+".pub"); !strings.Contains(string(out), got.Fingerprint()) {
				t.Errorf("fingerprint %s is not in %s", got.Fingerprint(), out)
			}
			if _, err := Verify(armored, message, "gatewarden-policy"); err == nil {
				t.Error("held for another namespace")
			}
			if _, err := Verify(armored, append(message, '\n'), namespace); err == nil {
				t.Error("held for a longer message")
			}
		})
	}
}

func TestSSHKeygenAcceptsOurSignatures(t *testing.T) {
	message := []byte("message")
	for name, signer := range signers(t) {
		t.Run(name, func(t *testing.T) {
			armored, err := sshsigtest.Sign(signer, message, namespace)
			if err != nil {
				t.Fatal(err)
			}
			key, err := Verify(armored, message, namespace)
			if err != nil {
				t.Fatal(err)
			}
			if err := keygenVerify(t, key, namespace, message, armored); err != nil {
				t.Errorf("ssh-keygen refuses it: %v", err)
			}
		})
	}
}

func signers(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	_, ed, err1 := ed25519.GenerateKey(rand.Reader)
	p256, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, err3 := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err1 != nil || err2 != nil || err3 != nil {
		t.Fatal(err1, err2, err3)
	}
	return map[string]crypto.Signer{"ed25519": ed, "P-256": p256, "P-384": p384}
}

func TestSignRefusesOtherKeysAndNoNamespace(t *testing.T) {
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sshsigtest.Sign(p521, []byte("m"), namespace); err == nil {
		t.Error("signed by a P-521 key, which Verify refuses")
	}
	if _, err := sshsigtest.Sign(signers(t)["ed25519"], []byte("m"), ""); err == nil {
		t.Error("signed for no namespace")
	}
}

// securityKey signs as a FIDO2 authenticator does (OpenSSH, PROTOCOL.u2f).
func securityKey(t *testing.T, kind string, flags byte, message []byte) []byte {
	t.Helper()
	b := appendString([]byte(nil), kind)
	all := signers(t)
	signer := all["ed25519"]
	if kind == typeSKEd25519 {
		b = appendString(b, signer.Public().(ed25519.PublicKey))
	} else {
		signer = all["P-256"]
		point, err := signer.Public().(*ecdsa.PublicKey).Bytes()
		if err != nil {
			t.Fatal(err)
		}
		b = appendString(appendString(b, "nistp256"), point)
	}
	key, err := parseKey(appendString(b, "ssh:"))
	if err != nil {
		t.Fatal(err)
	}
	application, sum := sha256.Sum256([]byte("ssh:")), sha256.Sum256(sshsigtest.ToSign(message, namespace))
	data := append(appendUint32(append(application[:], flags), 7), sum[:]...)
	plain := typeEd25519
	if kind == typeSKP256 {
		plain = typeP256
	}
	body, err := sshsigtest.Body(signer, plain, data)
	if err != nil {
		t.Fatal(err)
	}
	signature := appendUint32(append(appendString(appendString([]byte(nil), kind), body), flags), 7)
	return sshsigtest.Armor(key.blob, namespace, signature)
}

func TestSecurityKeyMustHaveBeenTouched(t *testing.T) {
	message := []byte("message")
	for _, kind := range []string{typeSKEd25519, typeSKP256} {
		for flags, want := range map[byte]bool{0x01: true, 0x05: true, 0x00: false, 0x04: false} {
			armored := securityKey(t, kind, flags, message)
			key, err := Verify(armored, message, namespace)
			if (err == nil) != want {
				t.Errorf("%s with flags %#x: %v", kind, flags, err)
			}
			if !want {
				continue
			}
			if err := keygenVerify(t, key, namespace, message, armored); err != nil {
				t.Errorf("%s: ssh-keygen refuses what we made for the test: %v", kind, err)
			}
		}
	}
}

func blobOf(t testing.TB, armored []byte) []byte {
	t.Helper()
	blob, err := dearmor(armored)
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

func armor(blob []byte) []byte {
	return []byte(begin + "\n" + base64.StdEncoding.EncodeToString(blob) + "\n" + end + "\n")
}

func TestAlteredByteOfSignatureIsRefused(t *testing.T) {
	message := []byte("message")
	for name, signer := range signers(t) {
		armored, err := sshsigtest.Sign(signer, message, namespace)
		if err != nil {
			t.Fatal(err)
		}
		blob := blobOf(t, armored)
		for i := range blob {
			changed := bytes.Clone(blob)
			changed[i] ^= 1
			if _, err := Verify(armor(changed), message, namespace); err == nil {
				t.Errorf("%s: byte %d altered, and it holds", name, i)
			}
		}
		for cut := range blob {
			if _, err := Verify(armor(blob[:cut]), message, namespace); err == nil {
				t.Errorf("%s: cut to %d bytes, and it holds", name, cut)
			}
		}
		if _, err := Verify(armor(append(bytes.Clone(blob), 0)), message, namespace); err == nil {
			t.Errorf("%s: a byte follows, and it holds", name)
		}
	}
}

func TestAlteredByteOfMessageIsRefused(t *testing.T) {
	message := []byte(`{"verb":"ping"}`)
	armored, err := sshsigtest.Sign(signers(t)["ed25519"], message, namespace)
	if err != nil {
		t.Fatal(err)
	}
	for i := range message {
		changed := bytes.Clone(message)
		changed[i] ^= 0x20
		if _, err := Verify(armored, changed, namespace); err == nil {
			t.Errorf("byte %d altered, and it holds", i)
		}
	}
}

func TestMalformedArmorIsRefused(t *testing.T) {
	message := []byte("message")
	armored, err := sshsigtest.Sign(signers(t)["ed25519"], message, namespace)
	if err != nil {
		t.Fatal(err)
	}
	text := string(armored)
	for name, bad := range map[string]string{
		"empty":       "",
		"no begin":    text[1:],
		"no end":      text[:len(text)-2],
		"text before": "x" + text,
		"text behind": text + "x",
		"two":         text + text,
		"not base64":  strings.Replace(text, "U1NI", "U1N-", 1),
		"too long":    begin + strings.Repeat("\n", MaxArmored) + end,
	} {
		if _, err := Verify([]byte(bad), message, namespace); err == nil {
			t.Errorf("%s: it holds", name)
		}
	}
	if _, err := Verify([]byte(strings.TrimSpace(strings.ReplaceAll(text, "\n", "\r\n"))), message, namespace); err != nil {
		t.Errorf("with line ends of another system: %v", err)
	}
}

func TestWeakAndOddKeysAreRefused(t *testing.T) {
	dsa := "ssh-dss AAAAB3NzaC1kc3M="
	_, p521 := newKey(t, "-t", "ecdsa", "-b", "521")
	_, small := newKey(t, "-t", "rsa", "-b", "1024")
	_, good := newKey(t, "-t", "ed25519")
	for name, line := range map[string]string{
		"DSA": dsa, "P-521": p521, "RSA 1024": small, "empty": "", "type only": "ssh-ed25519",
		"options":    "restrict " + good,
		"other type": strings.Replace(good, "ssh-ed25519", "ssh-rsa", 1),
		"two lines":  good + "\n" + good,
		"cut":        strings.Fields(good)[0] + " " + strings.Fields(good)[1][:40],
	} {
		if key, err := ParseAuthorizedKey(line); err == nil {
			t.Errorf("%s: accepted as %s", name, key)
		}
	}
	if (Key{}).Equal(Key{}) {
		t.Error("the zero key equals itself, so an absent key would match another")
	}
}

// An RSA signature that says "ssh-rsa" is over SHA-1.
func TestSHA1SignatureIsRefused(t *testing.T) {
	file, _ := newKey(t, "-t", "rsa", "-b", "2048")
	message := []byte("message")
	blob := blobOf(t, keygenSign(t, file, namespace, message))
	b, err := parse(blob)
	if err != nil {
		t.Fatal(err)
	}
	inner := append(appendString([]byte(nil), "ssh-rsa"), b.signature[4+len("rsa-sha2-512"):]...)
	key, err := parseKey(b.key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(sshsigtest.Armor(key.blob, namespace, inner), message, namespace); err == nil || !strings.Contains(err.Error(), "ssh-rsa") {
		t.Errorf("error is %v, want one that names ssh-rsa", err)
	}
}

// FuzzVerify: whatever is accepted can be written in one way only, apart from
// line ends, and is accepted again.
func FuzzVerify(f *testing.F) {
	message := []byte("message")
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	armored, err := sshsigtest.Sign(key, message, namespace)
	if err != nil {
		f.Fatal(err)
	}
	blob, err := dearmor(armored)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(blob)
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Verify(armor(data), message, namespace)
		if err != nil {
			return
		}
		b, err := parse(data)
		if err != nil {
			t.Fatal("held, but does not parse")
		}
		if b.hash == "sha512" && !bytes.Equal(blobOf(t, sshsigtest.Armor(got.blob, namespace, b.signature)), data) {
			t.Error("two encodings of one signature hold")
		}
	})
}

func FuzzParseAuthorizedKey(f *testing.F) {
	key, err := sshsigtest.Line(ed25519.NewKeyFromSeed(make([]byte, 32)).Public())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(key + " comment")
	f.Fuzz(func(t *testing.T, line string) {
		key, err := ParseAuthorizedKey(line)
		if err != nil {
			return
		}
		again, err := ParseAuthorizedKey(key.String())
		if err != nil || !again.Equal(key) {
			t.Errorf("does not survive a round trip: %s, %v", key, err)
		}
	})
}
