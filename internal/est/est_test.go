package est

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/smallstep/pkcs7"

	"github.com/gatewarden/gatewarden/internal/wire"
)

func newKey(tb testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func certificates(tb testing.TB, n int) []*x509.Certificate {
	tb.Helper()
	var certs []*x509.Certificate
	for i := range n {
		key := newKey(tb, elliptic.P256())
		template := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: fmt.Sprint("c", i)}, NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			tb.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			tb.Fatal(err)
		}
		certs = append(certs, cert)
	}
	return certs
}

func request(tb testing.TB, key any, alg x509.SignatureAlgorithm) []byte {
	tb.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "gw"}, SignatureAlgorithm: alg}, key)
	if err != nil {
		tb.Fatal(err)
	}
	return der
}

func sameCertificates(a, b []*x509.Certificate) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !a[i].Equal(b[i]) {
			return false
		}
	}
	return true
}

func TestAnswerComesBackInOrder(t *testing.T) {
	for n := 1; n <= wire.MaxCertificates; n++ {
		certs := certificates(t, n)
		w := httptest.NewRecorder()
		if err := WriteCertsOnly(w, certs); err != nil {
			t.Fatal(err)
		}
		if !SameType(w.Header().Get("Content-Type"), TypeCertsOnly) || w.Header().Get("Content-Transfer-Encoding") != "base64" {
			t.Errorf("headers %v", w.Header())
		}
		got, err := ParseCertsOnly(w.Body.Bytes())
		if err != nil || !sameCertificates(got, certs) {
			t.Errorf("%d certificates came back as %d: %v", n, len(got), err)
		}
	}
}

func TestOtherImplementationsReadOurCertsOnly(t *testing.T) {
	certs := certificates(t, 3)
	der, err := EncodeCertsOnly(certs)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := pkcs7.Parse(der)
	if err != nil || !sameCertificates(parsed.Certificates, certs) {
		t.Errorf("smallstep/pkcs7: %v", err)
	}
	out := openssl(t, der, "pkcs7", "-inform", "DER", "-print_certs")
	for i := range certs {
		if want := fmt.Sprintf("CN = c%d", i); !bytes.Contains(out, []byte(want)) {
			t.Errorf("openssl pkcs7 printed no %q:\n%s", want, out)
		}
	}
}

func TestWeReadOtherImplementationsCertsOnly(t *testing.T) {
	certs := certificates(t, 2)
	var raw, text []byte
	for _, c := range certs {
		raw = append(raw, c.Raw...)
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	der, err := pkcs7.DegenerateCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeCertsOnly(der); err != nil || !sameCertificates(got, certs) {
		t.Errorf("smallstep/pkcs7: %v", err)
	}
	// A server of RFC 7030 breaks lines; openssl does so in PEM.
	block, _ := pem.Decode(openssl(t, text, "crl2pkcs7", "-nocrl", "-certfile", "/dev/stdin"))
	if block == nil {
		t.Fatal("openssl crl2pkcs7 made no PEM")
	}
	broken := strings.ReplaceAll(string(pem.EncodeToMemory(block)), "\n", "\r\n")
	body := broken[strings.Index(broken, "\n")+1 : strings.Index(broken, "-----END")]
	if got, err := ParseCertsOnly([]byte(body)); err != nil || !sameCertificates(got, certs) {
		t.Errorf("openssl crl2pkcs7: %v", err)
	}
}

func openssl(t *testing.T, stdin []byte, args ...string) []byte {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed: the comparison with it was not made")
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl %v: %v", args, err)
	}
	return out
}

func TestForeignMessagesAreRefused(t *testing.T) {
	good, err := EncodeCertsOnly(certificates(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	many, err := EncodeCertsOnly(certificates(t, wire.MaxCertificates+1))
	if err != nil {
		t.Fatal(err)
	}
	none, err := EncodeCertsOnly(nil)
	if err != nil {
		t.Fatal(err)
	}
	signed := signedMessage(t)
	for name, der := range map[string][]byte{
		"nothing": nil, "trailing": append(bytes.Clone(good), 0), "truncated": good[:len(good)-1], "too many": many, "none": none, "a signed message": signed,
		"a certificate": certificates(t, 1)[0].Raw,
	} {
		if _, err := DecodeCertsOnly(der); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	for name, body := range map[string][]byte{
		"DER": good, "not base64": []byte("!!!"), "huge": bytes.Repeat([]byte("A"), wire.MaxBody*2+4), "a bit too much": []byte("AB=="),
	} {
		if _, err := ParseCertsOnly(body); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func signedMessage(t *testing.T) []byte {
	t.Helper()
	key := newKey(t, elliptic.P256())
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	message, err := pkcs7.NewSignedData([]byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	if err := message.AddSigner(cert, key, pkcs7.SignerInfoConfig{}); err != nil {
		t.Fatal(err)
	}
	out, err := message.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func post(contentType, body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, wire.PathSimpleEnroll, strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	return r
}

func TestRequestIsReadStrictly(t *testing.T) {
	der := request(t, newKey(t, elliptic.P256()), x509.ECDSAWithSHA256)
	text := base64.StdEncoding.EncodeToString(der)
	broken := text[:64] + "\r\n" + text[64:] + "\n"
	for name, r := range map[string]*http.Request{"one line": post(TypeCSR, text), "broken": post("Application/PKCS10; x=y", broken)} {
		if csr, err := ReadCSR(r, wire.MaxBody); err != nil || csr.Subject.CommonName != "gw" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, r := range map[string]*http.Request{
		"another type": post("text/plain", text), "no type": post("", text), "binary": post(TypeCSR, string(der)), "empty": post(TypeCSR, ""), "PEM": post(TypeCSR, "-----BEGIN"),
	} {
		if _, err := ReadCSR(r, wire.MaxBody); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if _, err := ReadCSR(post(TypeCSR, text), 100); err == nil {
		t.Error("a request beyond the limit was accepted")
	}
}

func TestOnlyP256RequestsBySHA256(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256 := newKey(t, elliptic.P256())
	tampered := request(t, p256, x509.ECDSAWithSHA256)
	tampered[bytes.Index(tampered, []byte("gw"))] = 'G'
	for name, der := range map[string][]byte{
		"RSA": request(t, rsaKey, x509.SHA256WithRSA), "P-384": request(t, newKey(t, elliptic.P384()), x509.ECDSAWithSHA384), "ed25519": request(t, edKey, x509.PureEd25519),
		"SHA-384": request(t, p256, x509.ECDSAWithSHA384), "altered after signing": tampered, "huge": make([]byte, wire.MaxCertificate+1),
	} {
		if _, err := ParseCSR(der); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestCSRAttributesAreWhatOpenSSLExpects(t *testing.T) {
	w := httptest.NewRecorder()
	if err := WriteCSRAttrs(w); err != nil {
		t.Fatal(err)
	}
	der, err := base64.StdEncoding.DecodeString(w.Body.String())
	if err != nil {
		t.Fatal(err)
	}
	out := openssl(t, der, "asn1parse", "-inform", "DER")
	for _, want := range []string{"id-ecPublicKey", "prime256v1", "ecdsa-with-SHA256"} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
}

func FuzzHostileCertsOnlyNeverPanics(f *testing.F) {
	good, err := EncodeCertsOnly(certificates(f, 2))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, der []byte) {
		certs, err := DecodeCertsOnly(der)
		if err != nil {
			return
		}
		again, err := EncodeCertsOnly(certs)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := DecodeCertsOnly(again); err != nil || !sameCertificates(back, certs) {
			t.Fatalf("own encoding of what was accepted: %v", err)
		}
	})
}

func FuzzHostileCSRNeverPanics(f *testing.F) {
	f.Add(request(f, newKey(f, elliptic.P256()), x509.ECDSAWithSHA256))
	f.Fuzz(func(t *testing.T, der []byte) {
		csr, err := ParseCSR(der)
		if err == nil && csr.CheckSignature() != nil {
			t.Fatal("an unsigned request was accepted")
		}
	})
}
