package identity

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// responder is an EST server of which all cryptography is OpenSSL's: it reads
// requests, issues, packs and, in prove, shakes hands.
type responder struct {
	*testing.T
	dir string
}

func newResponder(t *testing.T) *responder {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Fatalf("%v: run make setup", err)
	}
	s := &responder{t, t.TempDir()}
	s.write("server.ext", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
	s.write("client.ext", "extendedKeyUsage=clientAuth\n")
	key := []string{"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"}
	s.openssl(append([]string{"req", "-x509", "-subj", "/CN=other CA", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem"}, key...)...)
	s.openssl(append([]string{"req", "-new", "-subj", "/CN=other server", "-keyout", "server.key", "-out", "server.csr"}, key...)...)
	s.openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1", "-extfile", "server.ext", "-out", "server.pem")
	return s
}

func (s *responder) path(name string) string { return filepath.Join(s.dir, name) }

func (s *responder) write(name, text string) {
	s.Helper()
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		s.Fatal(err)
	}
}

func (s *responder) read(name string) string {
	s.Helper()
	data, err := os.ReadFile(s.path(name))
	if err != nil {
		s.Fatal(err)
	}
	return string(data)
}

func (s *responder) openssl(args ...string) string {
	s.Helper()
	cmd := exec.Command("openssl", args...)
	cmd.Dir = s.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.Errorf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// serve answers simpleenroll (RFC 7030, section 4.2).
func (s *responder) serve() (address string) {
	s.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != "ticket" || password != "secret" || r.Header.Get("Content-Type") != "application/pkcs10" {
			s.Errorf("request by %q of type %q", user, r.Header.Get("Content-Type"))
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			s.Error(err)
		}
		s.write("csr.b64", string(body))
		s.openssl("base64", "-d", "-A", "-in", "csr.b64", "-out", "csr.der")
		if out := s.openssl("req", "-inform", "DER", "-in", "csr.der", "-verify", "-noout", "-subject"); !strings.Contains(out, "verify OK") {
			s.Errorf("OpenSSL says of the request: %s", out)
		}
		s.openssl("x509", "-req", "-inform", "DER", "-in", "csr.der", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "1", "-extfile", "client.ext", "-out", "leaf.pem")
		s.openssl("crl2pkcs7", "-nocrl", "-certfile", "leaf.pem", "-certfile", "ca.pem", "-outform", "DER", "-out", "certs.p7")
		s.openssl("base64", "-in", "certs.p7", "-out", "certs.b64")
		w.Header().Set("Content-Type", "application/pkcs7-mime; smime-type=certs-only")
		w.Header().Set("Content-Transfer-Encoding", "base64")
		fmt.Fprint(w, s.read("certs.b64"))
	}))
	pair, err := tls.LoadX509KeyPair(s.path("server.pem"), s.path("server.key"))
	if err != nil {
		s.Fatal(err)
	}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	server.StartTLS()
	s.Cleanup(server.Close)
	return server.URL
}

// listen runs openssl s_server, which wants a client certificate of the CA and
// answers /cacerts out of a file.
func (s *responder) listen() (address string) {
	s.Helper()
	s.openssl("crl2pkcs7", "-nocrl", "-certfile", "ca.pem", "-outform", "DER", "-out", "ca.p7")
	s.openssl("base64", "-in", "ca.p7", "-out", "ca.b64")
	if err := os.MkdirAll(filepath.Dir(s.path(wire.PathCACerts)), 0o700); err != nil {
		s.Fatal(err)
	}
	s.write(wire.PathCACerts, "HTTP/1.0 200 OK\r\nContent-Type: application/pkcs7-mime\r\n\r\n"+s.read("ca.b64"))
	port := freePorts(s.T, 1)[0]
	cmd := exec.Command("openssl", "s_server", "-accept", port, "-tls1_3", "-cert", "server.pem", "-key", "server.key",
		"-CAfile", "ca.pem", "-Verify", "3", "-verify_return_error", "-HTTP")
	cmd.Dir = s.dir
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		if s.Failed() {
			s.Log(log.String())
		}
	})
	return "https://" + port
}

// Our client against an EST server that is none of ours: OpenSSL takes the request
// of a TPM's key, we take its certificate, and it takes us with that.
func TestOpenSSLAsTheESTServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g := w.gateway()
	i := g.start()
	s := newResponder(t)
	other := *g.fleet
	other.API, other.Anchors = []string{s.serve()}, []string{s.read("ca.pem")}
	g.fleet = &other
	key, csr, _, err := i.newKey(t.Context())
	w.must(err)
	r := request{client: i.anyone.http, path: wire.PathSimpleEnroll, user: "ticket", secret: "secret"}
	chain, err := i.simpleEnroll(t.Context(), r, csr)
	w.must(err)
	c, err := i.credential(key, chain)
	w.must(err)
	if c.Identity != i.Device() {
		t.Errorf("the certificate is for %s", c.Identity)
	}
	other.API = []string{s.listen()}
	until(t, "OpenSSL takes the certificate", func() bool {
		err = i.prove(t.Context(), c)
		return err == nil || !unreachable(err)
	})
	if err != nil {
		t.Errorf("OpenSSL does not take the certificate that it issued: %v", err)
	}
	anchors, err := i.certificates(t.Context(), request{client: c.tls.http, method: http.MethodGet, path: wire.PathCACerts})
	if err != nil || len(anchors) != 1 || anchors[0].Subject.CommonName != "other CA" {
		t.Errorf("OpenSSL's /cacerts: %v, %v", anchors, err)
	}
	// A certificate of our fleet is none of its CA.
	_, enrolled := w.enrolled()
	ours, _ := enrolled.Current()
	enrolled.cfg.Fleet = func() *policy.Fleet { return &other }
	ours.tls = &clientTLS{http: newHTTP(enrolled.clientTLS(&tls.Certificate{
		PrivateKey: ours.Key, Leaf: ours.Leaf(), Certificate: [][]byte{ours.Leaf().Raw}, SupportedSignatureAlgorithms: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
	}))}
	if err := enrolled.prove(t.Context(), &ours); err == nil || !happened(err, "remote error") {
		t.Errorf("a certificate of another CA: %v", err)
	}
}
