package revocation

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/gatewarden/gatewarden/fleet/ca"
	"github.com/gatewarden/gatewarden/fleet/registry"
)

const (
	deviceA = "gw-aaaaaaaaaaaaaaaa"
	deviceB = "gw-bbbbbbbbbbbbbbbb"
)

// world is the handler over an authority with two generations.
type world struct {
	*testing.T
	dir        string
	ca, before *ca.CA
	store      *registry.Store
	url        string
	ahead      atomic.Int64 // how far the clock is ahead, ns
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, dir: t.TempDir()}
	v := &ca.Vault{Dir: filepath.Join(w.dir, "ca")}
	w.must(v.Init("lab", time.Now()))
	var err error
	w.before, err = v.Open()
	w.must(err)
	_, err = v.Rollover(filepath.Join(v.Dir, "root.key"), false, time.Now(), "devices")
	w.must(err)
	w.ca, err = v.Open()
	w.must(err)
	w.store, err = registry.OpenSQLite(filepath.Join(w.dir, "registry.db"))
	w.must(err)
	t.Cleanup(func() { w.store.Close() })
	for _, id := range []string{deviceA, deviceB} {
		_, _, err := w.store.Enroll(t.Context(), registry.Device{ID: id, EKName: []byte(id)})
		w.must(err)
		w.must(w.store.SetState(t.Context(), id, registry.Active, "olga", "", time.Now()))
	}
	h, err := New(Config{CA: w.ca, Registry: w.store, URL: "https://fleet.example:8443", Now: w.now, Log: slog.New(slog.DiscardHandler)})
	w.must(err)
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	w.url = server.URL
	return w
}

// issue journals a certificate of device by authority.
func (w *world) issue(authority *ca.CA, device string) (leaf *x509.Certificate, by *x509.Certificate) {
	w.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	leaf, chain, err := authority.Issue(ca.Full, device, key.Public(), time.Now(), 24*time.Hour)
	w.must(err)
	w.must(w.store.AddCertificate(w.Context(), registry.Certificate{
		Serial: leaf.SerialNumber.Text(16), Device: device, Identity: device, Profile: "full", NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
		IssuedAt: time.Now(), DER: leaf.Raw,
	}, ""))
	return leaf, chain[0]
}

func (w *world) revoke(device, reason string) {
	w.Helper()
	_, err := w.store.RevokeCertificates(w.Context(), device, "", reason, w.now())
	w.must(err)
	w.ahead.Add(int64(fresh)) // the lists of before have had their second
}

func (w *world) get(path string) (int, []byte) {
	w.Helper()
	resp, err := http.Get(w.url + path)
	w.must(err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	w.must(err)
	return resp.StatusCode, data
}

func (w *world) crl(name string) *x509.RevocationList {
	w.Helper()
	status, der := w.get(PathCRL + name)
	if status != http.StatusOK {
		w.Fatalf("%s: %d", name, status)
	}
	list, err := x509.ParseRevocationList(der)
	w.must(err)
	return list
}

func TestListsNameWhatTheirIntermediateIssuedAndRevoked(t *testing.T) {
	w := newWorld(t)
	old, oldBy := w.issue(w.before, deviceA)
	fresh, freshBy := w.issue(w.ca, deviceB)
	first := w.crl("devices.crl")
	if len(first.RevokedCertificateEntries) != 0 {
		t.Error("a list names good certificates")
	}
	w.revoke(deviceA, "stolen")
	w.revoke(deviceB, "superseded")
	for name, c := range map[string]struct {
		by, leaf *x509.Certificate
		reason   int
	}{"devices": {oldBy, old, 0}, "devices-2": {freshBy, fresh, superseded}} {
		for _, suffix := range []string{".crl", "-delta.crl"} {
			list := w.crl(name + suffix)
			w.must(list.CheckSignatureFrom(c.by))
			if len(list.RevokedCertificateEntries) != 1 || list.RevokedCertificateEntries[0].SerialNumber.Cmp(c.leaf.SerialNumber) != 0 ||
				list.RevokedCertificateEntries[0].ReasonCode != c.reason {
				t.Errorf("%s%s: %+v", name, suffix, list.RevokedCertificateEntries)
			}
			if list.Number.Cmp(first.Number) <= 0 || list.NextUpdate.Before(w.now().Add(listLife-time.Minute)) {
				t.Errorf("%s%s: number %s after %s, until %s", name, suffix, list.Number, first.Number, list.NextUpdate)
			}
		}
	}
	if n := len(w.crl("quarantine.crl").RevokedCertificateEntries); n != 0 {
		t.Errorf("%d entries on another intermediate's list", n)
	}
	// Longer ago than any full list in use: on the full list alone, until it expired.
	w.ahead.Add(int64(listLife))
	if full, delta := w.crl("devices.crl"), w.crl("devices-delta.crl"); len(full.RevokedCertificateEntries) != 1 || len(delta.RevokedCertificateEntries) != 0 {
		t.Errorf("%d on the full list, %d on the delta", len(full.RevokedCertificateEntries), len(delta.RevokedCertificateEntries))
	}
	w.ahead.Add(int64(24 * time.Hour))
	if n := len(w.crl("devices.crl").RevokedCertificateEntries); n != 0 {
		t.Errorf("%d expired certificates listed", n)
	}
	for _, path := range []string{"devices.pem", "", "devices-3.crl", "..%2fdevices.key"} {
		if status, _ := w.get(PathCRL + path); status != http.StatusNotFound {
			t.Errorf("%q: %d", path, status)
		}
	}
}

func (w *world) openssl(args ...string) (string, error) {
	cmd := exec.CommandContext(w.Context(), "openssl", args...)
	cmd.Dir = w.dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (w *world) write(name, kind string, ders ...[]byte) {
	w.Helper()
	var all []byte
	for _, der := range ders {
		all = append(all, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
	}
	w.must(os.WriteFile(filepath.Join(w.dir, name), all, 0o600))
}

func TestOpenSSLTakesListsDeltasAndAnswers(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed: the comparison with it was not made")
	}
	w := newWorld(t)
	w.must(os.WriteFile(filepath.Join(w.dir, "root.pem"), w.ca.Anchors(), 0o600))
	for _, authority := range []*ca.CA{w.before, w.ca} {
		device := map[*ca.CA]string{w.before: deviceA, w.ca: deviceB}[authority]
		leaf, by := w.issue(authority, device)
		name := strings.TrimPrefix(by.Subject.CommonName, "lab ")
		w.write("leaf.pem", "CERTIFICATE", leaf.Raw)
		w.write("by.pem", "CERTIFICATE", by.Raw)
		_, early := w.get(PathCRL + name + ".crl")
		_, all := w.get(PathCRL + "all.pem")
		w.must(os.WriteFile(filepath.Join(w.dir, "all.pem"), all, 0o600))
		verify := []string{"verify", "-x509_strict", "-CAfile", "root.pem", "-untrusted", "by.pem", "-crl_check"}
		if out, err := w.openssl(append(verify, "-CRLfile", "all.pem", "leaf.pem")...); err != nil {
			t.Errorf("good, full list: %v\n%s", err, out)
		}
		w.asks(name, "good")
		w.revoke(device, "stolen")
		_, delta := w.get(PathCRL + name + "-delta.crl")
		w.write("both.pem", "X509 CRL", early, delta)
		w.write("early.pem", "X509 CRL", early)
		w.write("delta.pem", "X509 CRL", delta)
		out, err := w.openssl("crl", "-in", "delta.pem", "-noout", "-text", "-CAfile", "by.pem")
		if err != nil || !strings.Contains(out, "verify OK") || !strings.Contains(out, "Delta CRL Indicator: critical") {
			t.Errorf("openssl crl: %v\n%s", err, out)
		}
		if out, err := w.openssl(append(verify, "-CRLfile", "early.pem", "leaf.pem")...); err != nil {
			t.Errorf("the list of before: %v\n%s", err, out)
		}
		if out, err := w.openssl(append(verify, "-extended_crl", "-use_deltas", "-CRLfile", "both.pem", "leaf.pem")...); err == nil || !strings.Contains(out, "certificate revoked") {
			t.Errorf("revoked, list of before with the delta: %v\n%s", err, out)
		}
		_, all = w.get(PathCRL + "all.pem")
		w.must(os.WriteFile(filepath.Join(w.dir, "all.pem"), all, 0o600))
		if out, err := w.openssl(append(verify, "-CRLfile", "all.pem", "leaf.pem")...); err == nil || !strings.Contains(out, "certificate revoked") {
			t.Errorf("revoked, full list: %v\n%s", err, out)
		}
		w.asks(name, "revoked")
	}
}

// asks has openssl ask about leaf.pem, by POST and by GET, with either hash.
func (w *world) asks(name, want string) {
	w.Helper()
	for _, hash := range []string{"-sha1", "-sha256"} {
		if out, err := w.openssl("ocsp", hash, "-issuer", "by.pem", "-cert", "leaf.pem", "-no_nonce", "-reqout", "req.der"); err != nil {
			w.Fatalf("openssl ocsp: %v\n%s", err, out)
		}
		request, err := os.ReadFile(filepath.Join(w.dir, "req.der"))
		w.must(err)
		resp, err := http.Post(w.url+PathOCSP, "application/ocsp-request", bytes.NewReader(request))
		w.must(err)
		posted, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		w.must(err)
		_, got := w.get(PathOCSP + "/" + url.PathEscape(base64.StdEncoding.EncodeToString(request)))
		for _, answer := range [][]byte{posted, got} {
			w.must(os.WriteFile(filepath.Join(w.dir, "resp.der"), answer, 0o600))
			out, err := w.openssl("ocsp", hash, "-respin", "resp.der", "-issuer", "by.pem", "-cert", "leaf.pem", "-no_nonce", "-CAfile", "root.pem", "-verify_other", "by.pem")
			if err != nil || !strings.Contains(out, "Response verify OK") || !strings.Contains(out, "leaf.pem: "+want) {
				w.Errorf("%s %s: %v\n%s", name, hash, err, out)
			}
		}
	}
}

func TestOCSPKnowsWhatThisIntermediateIssuedAndNothingElse(t *testing.T) {
	w := newWorld(t)
	leaf, by := w.issue(w.ca, deviceA)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	unseen, _, err := w.ca.Issue(ca.Full, deviceB, key.Public(), time.Now(), time.Hour)
	w.must(err)
	foreignDir := filepath.Join(w.dir, "foreign")
	w.must(ca.Init(foreignDir, "lab", time.Now()))
	foreign, err := ca.Open(foreignDir)
	w.must(err)
	ask := func(leaf, issuer *x509.Certificate) []byte {
		t.Helper()
		request, err := ocsp.CreateRequest(leaf, issuer, nil)
		w.must(err)
		return request
	}
	post := func(body []byte) []byte {
		t.Helper()
		resp, err := http.Post(w.url+PathOCSP, "application/ocsp-request", bytes.NewReader(body))
		w.must(err)
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		w.must(err)
		return answer
	}
	for name, c := range map[string]struct {
		request []byte
		issuer  *x509.Certificate
		want    int
	}{
		"issued":                   {ask(leaf, by), by, ocsp.Good},
		"signed, not journalled":   {ask(unseen, by), by, ocsp.Unknown},
		"of the generation before": {ask(leaf, w.before.Chain(ca.Full)[0]), w.before.Chain(ca.Full)[0], ocsp.Unknown},
		"of another intermediate":  {ask(leaf, w.ca.Chain(ca.Quarantine)[0]), w.ca.Chain(ca.Quarantine)[0], ocsp.Unknown},
	} {
		got, err := ocsp.ParseResponse(post(c.request), c.issuer)
		if err != nil || got.Status != c.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if got := post(ask(leaf, foreign.Chain(ca.Full)[0])); !bytes.Equal(got, ocsp.UnauthorizedErrorResponse) {
		t.Errorf("another authority: %x", got)
	}
	good := ask(leaf, by)
	for name, body := range map[string][]byte{"empty": nil, "garbage": []byte("x"), "cut": good[:len(good)-3], "trailing": append(bytes.Clone(good), 0), "huge": make([]byte, 1<<20)} {
		if got := post(body); !bytes.Equal(got, ocsp.MalformedRequestErrorResponse) {
			t.Errorf("%s: %x", name, got)
		}
	}
	if _, got := w.get(PathOCSP + "/no-base64!"); !bytes.Equal(got, ocsp.MalformedRequestErrorResponse) {
		t.Errorf("%s", got)
	}
}

func FuzzOCSPRequestNeverPanics(f *testing.F) {
	dir := filepath.Join(f.TempDir(), "ca")
	if err := ca.Init(dir, "lab", time.Now()); err != nil {
		f.Fatal(err)
	}
	authority, err := ca.Open(dir)
	if err != nil {
		f.Fatal(err)
	}
	by := authority.Chain(ca.Full)[0]
	if request, err := ocsp.CreateRequest(by, by, nil); err == nil {
		f.Add(request)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		q, err := authority.ParseOCSP(der)
		if err != nil && ca.RefuseOCSP(err) == nil {
			t.Errorf("an internal error: %v", err)
		}
		if err == nil {
			if _, err := authority.OCSP(q, ca.Unknown, ca.Entry{}, time.Now(), time.Hour); err != nil {
				t.Error(err)
			}
		}
	})
}

// A broker that has to be restarted for a new list takes one that says something new.
func TestListIsNewByItsTagOnlyIfSomethingWasRevokedAndOnceADay(t *testing.T) {
	w := newWorld(t)
	day := 24 * time.Hour
	w.ahead.Store(int64(time.Until(time.Now().Truncate(day).Add(time.Hour)))) // an hour after midnight
	tag := ""
	fetch := func() int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+PathCRL+allFile, nil)
		w.must(err)
		r.Header.Set("If-None-Match", tag)
		resp, err := http.DefaultClient.Do(r)
		w.must(err)
		defer resp.Body.Close()
		tag = resp.Header.Get("ETag")
		return resp.StatusCode
	}
	for _, c := range []struct {
		what string
		do   func()
		want int
	}{
		{"the first time", func() {}, http.StatusOK},
		{"two hours later", func() { w.ahead.Add(int64(2 * time.Hour)) }, http.StatusNotModified},
		{"after a revocation", func() {
			w.issue(w.ca, deviceA)
			w.revoke(deviceA, "stolen")
			w.ahead.Add(int64(fresh))
		}, http.StatusOK},
		{"again", func() {}, http.StatusNotModified},
		{"the next day", func() { w.ahead.Add(int64(day)) }, http.StatusOK},
	} {
		if c.do(); fetch() != c.want {
			t.Errorf("%s: want %d", c.what, c.want)
		}
	}
}
