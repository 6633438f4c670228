package device_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/ca"
	"github.com/gatewarden/gatewarden/fleet/device"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/est"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// known registers a device without a TPM, in this state.
func (w *world) known(id, state string) {
	w.Helper()
	_, _, err := w.store.Enroll(w.Context(), registry.Device{ID: id, Model: "x", EKName: []byte(id), EKPublic: []byte(id), AKPublic: []byte(id), Created: w.now()})
	w.must(err)
	w.must(w.store.SetState(w.Context(), id, state, "olga", "test", w.now()))
}

// issued makes a certificate for identity, by authority; the journal knows it if
// device is given.
func (w *world) issued(authority *ca.CA, p ca.Profile, identity, device string, from time.Time) *tls.Certificate {
	w.Helper()
	key := newKey(w.T)
	leaf, chain, err := authority.Issue(p, identity, key.Public(), from, time.Hour)
	w.must(err)
	if device != "" {
		w.must(w.store.AddCertificate(w.Context(), registry.Certificate{
			Serial: leaf.SerialNumber.Text(16), Device: device, Identity: identity, Profile: string(p), SPKI: spkiOf(w.T, key.Public()),
			NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, IssuedAt: from, DER: leaf.Raw,
		}, ""))
	}
	return &tls.Certificate{PrivateKey: key, Leaf: leaf, Certificate: [][]byte{leaf.Raw, chain[0].Raw}}
}

const (
	idA = "gw-aaaaaaaaaaaaaaaa"
	idB = "gw-bbbbbbbbbbbbbbbb"
)

func protectedRoutes() []call {
	csr := []byte(base64.StdEncoding.EncodeToString([]byte("x")))
	return []call{
		{path: wire.PathChallenge, body: struct{}{}}, {path: wire.PathEvidence, body: struct{}{}},
		{path: device.PathResult, method: http.MethodGet},
		{path: wire.PathSimpleEnroll, kind: est.TypeCSR, body: csr}, {path: wire.PathSimpleReenroll, kind: est.TypeCSR, body: csr},
	}
}

func TestEveryProtectedRouteWantsAGoodCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.known(idA, registry.Active)
	w.known(idB, registry.Active)
	foreignDir := filepath.Join(t.TempDir(), "ca")
	w.must(ca.Init(foreignDir, fleetID, time.Now()))
	foreign, err := ca.Open(foreignDir)
	w.must(err)
	revoked := w.issued(w.ca, ca.Full, idB, idB, time.Now())
	_, err = w.store.RevokeCertificates(t.Context(), idB, "", "test", time.Now())
	w.must(err)
	// In the handshake already.
	for name, own := range map[string]*tls.Certificate{
		"wrong CA":         w.issued(foreign, ca.Full, idA, "", time.Now()),
		"expired":          w.issued(w.ca, ca.Full, idA, idA, time.Now().Add(-2*time.Hour)),
		"of tomorrow":      w.issued(w.ca, ca.Full, idA, idA, time.Now().Add(24*time.Hour)),
		"revoked":          revoked,
		"never journalled": w.issued(w.ca, ca.Full, idA, "", time.Now()),
		"of a service":     w.issued(w.ca, ca.Service, wire.FleetIdentity, "", time.Now()),
		"self-signed":      selfSigned(t, idA),
	} {
		for _, c := range protectedRoutes() {
			c.client = w.client(own)
			if a, err := w.try(c); err == nil || !strings.Contains(err.Error(), "remote error: tls") && !strings.Contains(err.Error(), "connection reset") && !strings.Contains(err.Error(), "broken pipe") {
				t.Errorf("%s, %s: answer %d %s, error %v", name, c.path, a.status, a.body, err)
			}
		}
	}
	for _, c := range protectedRoutes() {
		w.refused(c, http.StatusUnauthorized, "unauthenticated")
		if c.path != wire.PathSimpleReenroll {
			c.user, c.secret = "unknown", "00"
			w.refused(c, http.StatusUnauthorized, "ticket")
		}
	}
	if a := w.do(protectedRoutes()[0]); a.header.Get("WWW-Authenticate") == "" {
		t.Error("401 without WWW-Authenticate")
	}
}

func selfSigned(t *testing.T, identity string) *tls.Certificate {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ca")
	if err := ca.Init(dir, fleetID, time.Now()); err != nil {
		t.Fatal(err)
	}
	authority, err := ca.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	leaf, _, err := authority.Issue(ca.Full, identity, key.Public(), time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(nil, leaf, leaf, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{PrivateKey: key, Certificate: [][]byte{der}}
}

// A connection may be older than what became of its certificate.
func TestOpenConnectionEndsWithItsCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for name, c := range map[string]struct {
		id     string
		change func(id string)
		rule   string
	}{
		"certificate revoked": {idA, func(id string) {
			_, err := w.store.RevokeCertificates(t.Context(), id, "", "test", time.Now())
			w.must(err)
		}, "certificate"},
		"device revoked": {idB, func(id string) {
			w.must(w.store.SetState(t.Context(), id, registry.Revoked, "olga", "stolen", time.Now()))
		}, "revoked"},
		"certificate expired": {"gw-cccccccccccccccc", func(string) { w.ahead.Store(int64(2 * time.Hour)) }, "certificate"},
	} {
		w.ahead.Store(0)
		w.known(c.id, registry.Active)
		by := w.by(w.issued(w.ca, ca.Full, c.id, c.id, time.Now()))
		w.ok(by(wire.PathChallenge, struct{}{}), nil)
		c.change(c.id)
		t.Log(name)
		w.refused(by(wire.PathChallenge, struct{}{}), http.StatusForbidden, c.rule)
		w.refused(by(wire.PathEvidence, struct{}{}), http.StatusForbidden, c.rule)
		w.refused(by(wire.PathSimpleReenroll, struct{}{}), http.StatusForbidden, c.rule)
	}
}

func TestMalformedRequestsAreRefusedInWords(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.known(idA, registry.Active)
	by := w.by(w.issued(w.ca, ca.Full, idA, idA, time.Now()))
	big := make([]byte, wire.MaxBody+1)
	huge := make([]byte, wire.MaxMessage+1)
	for _, c := range []struct {
		call   call
		status int
		rule   string
	}{
		{call{path: wire.PathEnroll, body: []byte(`{"v":2,"model":"x"}`)}, 400, "format"},
		{call{path: wire.PathEnroll, body: []byte(`{"v":1,"model":"x","surprise":1}`)}, 400, "ek"}, // the key is passed over; the EK is missing
		{call{path: wire.PathEnroll, body: []byte(`{"v":1,"V":1,"model":"x"}`)}, 400, "format"},
		{call{path: wire.PathEnroll, body: []byte(`{"v":1,"v":1}`)}, 400, "format"},
		{call{path: wire.PathEnroll, body: []byte(`{}`)}, 400, "format"},
		{call{path: wire.PathEnroll, body: []byte(``)}, 400, "format"},
		{call{path: wire.PathEnroll, body: big}, 413, "size"},
		{call{path: wire.PathEnroll, body: []byte(`{"v":1,"model":"x","software":"1","ek_public":"AAAA"}`)}, 400, "ek"},
		{by(wire.PathEvidence, huge), 413, "size"},
		{by(wire.PathEvidence, []byte(`{"v":1,"surprise":1}`)), 400, "format"},
		{by(wire.PathEvidence, []byte(`{"v":1}`)), 403, "evidence.nonce"},
		{call{path: "/v1/nothing"}, 404, "path"},
		{call{method: http.MethodGet, path: wire.PathEnroll}, 404, "path"},
	} {
		w.refused(c.call, c.status, c.rule)
	}
	reenroll := by(wire.PathSimpleReenroll, []byte("x"))
	w.refused(reenroll, 400, "csr") // not application/pkcs10
	reenroll.kind = est.TypeCSR
	w.refused(reenroll, 400, "csr")
	reenroll.body = big
	w.refused(reenroll, 400, "csr")
}

func TestUnfinishedHandshakesBlockNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	address := strings.TrimPrefix(w.url, "https://")
	for n := range 100 {
		conn, err := net.Dial("tcp", address)
		w.must(err)
		t.Cleanup(func() { conn.Close() })
		if n%2 == 0 {
			_, err = conn.Write([]byte{0x16, 3, 1, 0x40}) // a record that never comes
			w.must(err)
		}
	}
	for try := 1; ; try++ { // the machine itself may stall, but not each time
		start := time.Now()
		w.ok(call{method: http.MethodGet, path: wire.PathCSRAttrs}, nil)
		took := time.Since(start)
		if took <= 3*time.Second {
			return
		}
		if try == 5 {
			t.Fatalf("a good client waited %s", took)
		}
	}
}
