package device_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/internal/softkey"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// byHand are curl and openssl as the other end.
type byHand struct {
	*world
	anchors string
}

func (w *world) byHand() *byHand {
	w.Helper()
	for _, tool := range []string{"curl", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			w.Skip(tool + " is not installed: run make setup")
		}
	}
	h := &byHand{world: w}
	h.anchors = h.file("anchors.pem", w.ca.Anchors())
	return h
}

func (h *byHand) file(name string, data []byte) (path string) {
	h.Helper()
	path = filepath.Join(h.dir, name)
	h.must(os.WriteFile(path, data, 0o600))
	return path
}

func (h *byHand) run(stdin []byte, name string, args ...string) []byte {
	h.Helper()
	cmd := exec.CommandContext(h.Context(), name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.Output()
	if err != nil {
		h.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out
}

// curl returns an answer of EST without its base64.
func (h *byHand) curl(path string, more ...string) []byte {
	h.Helper()
	body := h.run(nil, "curl", append([]string{"-sS", "--fail-with-body", "--cacert", h.anchors, h.url + path}, more...)...)
	return h.run(body, "openssl", "base64", "-d", "-A")
}

// send is curl for a CSR in DER.
func (h *byHand) send(path string, csr []byte, more ...string) []byte {
	h.Helper()
	body := h.file("csr.b64", []byte(base64.StdEncoding.EncodeToString(csr)))
	return h.curl(path, append([]string{"-H", "Content-Type: application/pkcs10", "--data-binary", "@" + body}, more...)...)
}

// certificates are those of a certs-only message, in PEM.
func (h *byHand) certificates(message []byte) []byte {
	h.Helper()
	return h.run(message, "openssl", "pkcs7", "-inform", "DER", "-print_certs")
}

// good has openssl judge a leaf with its intermediate, and tell the subject.
func (h *byHand) good(chain []byte) (subject string) {
	h.Helper()
	path := h.file("chain.pem", chain)
	h.run(nil, "openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", h.anchors, "-untrusted", path, path)
	return string(h.run(chain, "openssl", "x509", "-noout", "-subject"))
}

func TestPlainESTClientsUnderstandUs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	h := w.byHand()
	cas := string(h.certificates(h.curl(wire.PathCACerts)))
	if n := strings.Count(cas, "BEGIN CERTIFICATE"); n != len(w.ca.Certificates()) {
		t.Errorf("openssl reads %d CA certificates, want %d", n, len(w.ca.Certificates()))
	}
	attrs := string(h.run(h.curl(wire.PathCSRAttrs), "openssl", "asn1parse", "-inform", "DER"))
	if !strings.Contains(attrs, "prime256v1") || !strings.Contains(attrs, "ecdsa-with-SHA256") {
		t.Errorf("CSR attributes:\n%s", attrs)
	}
	b := w.box()
	one := b.ticket()
	claim := spkiOf(t, one.key.Public())
	b.attest(one.call, claim)
	login := []string{"-u", one.id + ":" + one.secret}
	if waits := h.send(wire.PathSimpleEnroll, one.csr, append(login, "-D", filepath.Join(h.dir, "headers"))...); len(waits) > 0 {
		t.Errorf("before approval: %q", waits)
	}
	headers, err := os.ReadFile(filepath.Join(h.dir, "headers"))
	w.must(err)
	if !strings.Contains(string(headers), " 202") || !strings.Contains(string(headers), "Retry-After: 0.25") {
		t.Errorf("before approval:\n%s", headers)
	}
	b.approve()
	b.attest(one.call, claim)
	if subject := h.good(h.certificates(h.send(wire.PathSimpleEnroll, one.csr, login...))); !strings.Contains(subject, b.id) {
		t.Errorf("openssl reads the subject %q", subject)
	}
}

// Key and request of openssl, the certificate in use shown by curl. It takes a gateway
// whose key lies in a file.
func TestPlainESTClientsRenew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.enact(admitting())
	h, b := w.byHand(), w.bare()
	own := b.enrol()
	b.attest(w.by(own), spkiOf(t, own.Leaf.PublicKey))
	der, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	w.must(err)
	key := h.file("own.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	login := []string{"--cert", h.file("own.pem", pemOf(own)), "--key", key}
	next := filepath.Join(h.dir, "next.key")
	h.run(nil, "openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", next)
	csr := h.run(nil, "openssl", "req", "-new", "-key", next, "-subj", "/CN="+b.id, "-outform", "DER")
	proof, err := json.Marshal(wire.KeyProof{Signature: b.sign(softkey.Certify(fleetID, csr))})
	w.must(err)
	header := []string{"-H", wire.KeyProofHeader + ": " + base64.StdEncoding.EncodeToString(proof)}
	if subject := h.good(h.certificates(h.send(wire.PathSimpleReenroll, csr, append(login, header...)...))); !strings.Contains(subject, b.id) {
		t.Errorf("openssl reads the subject %q", subject)
	}
	again, err := tls.LoadX509KeyPair(filepath.Join(h.dir, "chain.pem"), next)
	w.must(err)
	w.ok(call{client: w.client(&again), path: wire.PathChallenge, body: struct{}{}}, nil)
	w.refused(call{client: w.client(&again), path: wire.PathSimpleEnroll, kind: "application/pkcs10", body: []byte("x")}, http.StatusUnauthorized, "unauthenticated")
}

func pemOf(own *tls.Certificate) (text []byte) {
	for _, der := range own.Certificate {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return text
}
