package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/ca"
	"github.com/gatewarden/gatewarden/fleet/operator"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/est"
	"github.com/gatewarden/gatewarden/internal/wire"
)

func (w *world) authority() *ca.CA {
	w.Helper()
	authority, err := ca.Open(filepath.Join(w.settings.State, "ca"))
	w.must(err)
	return authority
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// impostor serves h with a good certificate of the fleet: what a proxy of the
// fleet's own, or a fleet server in the wrong hands, could do.
func (w *world) impostor(h http.Handler) (address string) {
	w.Helper()
	key := newKey(w.T)
	leaf, chain, err := w.authority().Issue(ca.Service, wire.FleetIdentity, key.Public(), time.Now(), time.Hour, "127.0.0.1")
	w.must(err)
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{
		PrivateKey: key, Leaf: leaf, Certificate: [][]byte{leaf.Raw, chain[0].Raw},
	}}}
	s.StartTLS()
	w.Cleanup(s.Close)
	return s.URL
}

// through puts h in front of one path of the real fleet.
func (w *world) through(path string, h http.HandlerFunc) (address string) {
	w.Helper()
	return w.front(func(rw http.ResponseWriter, r *http.Request, fleet http.Handler) {
		if r.URL.Path == path {
			h(rw, r)
			return
		}
		fleet.ServeHTTP(rw, r)
	})
}

// front puts h in front of the real fleet.
func (w *world) front(h func(http.ResponseWriter, *http.Request, http.Handler)) (address string) {
	w.Helper()
	real, err := url.Parse(w.settings.Public.API[0])
	w.must(err)
	proxy := httputil.NewSingleHostReverseProxy(real)
	proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.authority().Roots(), MinVersion: tls.VersionTLS13}}
	return w.impostor(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { h(rw, r, proxy) }))
}

// issue answers a request with a certificate of an hour that is in nobody's journal.
func (w *world) issue(rw http.ResponseWriter, r *http.Request, authority *ca.CA, profile ca.Profile, identity string, from time.Time) {
	csr, err := est.ReadCSR(r, wire.MaxBody)
	if err != nil {
		w.Error(err)
		return
	}
	leaf, chain, err := authority.Issue(profile, identity, csr.PublicKey, from, time.Hour)
	if err == nil {
		err = est.WriteCertsOnly(rw, append([]*x509.Certificate{leaf}, chain...))
	}
	if err != nil {
		w.Error(err)
	}
}

func TestAnswerThatIsNotTheFleetsIsNotBelieved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g, i := w.enrolled()
	before := serial(i)
	var elsewhere atomic.Int32
	target := w.impostor(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"captive portal": {func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "text/html")
			io.WriteString(rw, "<html>Please log in</html>")
		}, "captive portal"},
		"captive portal that says JSON": {func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "application/json")
			io.WriteString(rw, `{"login":"http://portal/"}`)
		}, "has 0 bytes"},
		"redirect": {func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, target, http.StatusTemporaryRedirect)
		}, "307"},
		"10 MB": {func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "application/json")
			rw.Write(make([]byte, 10<<20))
		}, "longer than"},
		"502 of a proxy":   {func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusBadGateway) }, "502"},
		"503 of the fleet": {problem(http.StatusServiceUnavailable, ""), "503"},
		"429 of the fleet": {problem(http.StatusTooManyRequests, "rate"), "429"},
		"503 for a 403":    {problem(http.StatusServiceUnavailable, "certificate"), "503"},
		"connection cut":   {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
		"refusal in garbage": {func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "application/problem+json")
			rw.WriteHeader(403)
			io.WriteString(rw, "{")
		}, "refusal"},
	} {
		t.Run(name, func(t *testing.T) {
			var enrolments atomic.Int32
			g.fleet.API = []string{w.impostor(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path == wire.PathEnroll {
					enrolments.Add(1)
				}
				c.answer(rw, r)
			}))}
			_, err := i.step(t.Context(), "test")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if enrolments.Load() > 0 {
				t.Error("the device gave up its certificate and enrolled again")
			}
			if serial(i) != before {
				t.Error("the credential changed")
			}
		})
	}
	if elsewhere.Load() > 0 {
		t.Error("a redirect was followed")
	}
	g.fleet.API = []string{"https://127.0.0.1:1"}
	if _, err := i.step(t.Context(), "test"); err == nil || !unreachable(err) || strings.Contains(err.Error(), wire.PathEnroll) {
		t.Errorf("with nobody there: %v", err)
	}
	// The last address answers, though the first is gone, the second ill and the others mad.
	mad := func(status int, body string) string {
		return w.impostor(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "application/json")
			rw.WriteHeader(status)
			io.WriteString(rw, body)
		}))
	}
	g.fleet.API = []string{
		"https://127.0.0.1:1", w.impostor(problem(http.StatusServiceUnavailable, "")), mad(200, "\n\n"),
		mad(200, `{"login":"http://portal/"}`), mad(202, `{"login":"http://portal/"}`), mad(200, `{"v":1,"device":"gw-aaaaaaaaaaaaaaaa"}`), w.settings.Public.API[0],
	}
	g.step(i, "test")
	if serial(i) == before {
		t.Error("the fleet's last address was not tried")
	}
	before = serial(i)
	if err := i.enroll(t.Context(), "test"); err != nil || serial(i) == before {
		t.Errorf("the fleet's last address was not tried for a recovery: %v", err)
	}
}

func problem(status int, rule string) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/problem+json")
		rw.WriteHeader(status)
		io.WriteString(rw, `{"status":403,"title":"no","detail":"later","rule":"`+rule+`"}`)
	}
}

func TestCertificateThatIsNotThisDevicesIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g, i := w.enrolled()
	device := i.Device()
	w.must(g.fs.Remove(filepath.Join(g.dir, currentFile)))
	foreign, err := ca.Open(filepath.Join(newWorld(t, nil).settings.State, "ca"))
	w.must(err)
	issue := func(authority *ca.CA, identity string) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) {
			w.issue(rw, r, authority, ca.Full, identity, time.Now())
		}
	}
	another := func(rw http.ResponseWriter, _ *http.Request) {
		leaf, chain, err := w.authority().Issue(ca.Full, device, newKey(t).Public(), time.Now(), time.Hour)
		if err == nil {
			err = est.WriteCertsOnly(rw, append([]*x509.Certificate{leaf}, chain...))
		}
		if err != nil {
			t.Error(err)
		}
	}
	body := func(text string) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", est.TypeCertsOnly)
			io.WriteString(rw, text)
		}
	}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"another key":               {another, "not for the operational key"},
		"another device":            {issue(w.authority(), "gw-aaaaaaaaaaaaaaaa"), "this device is"},
		"another fleet":             {issue(foreign, device), "not of this fleet"},
		"garbage":                   {body("AAAA"), "read the fleet's answer"},
		"not base64":                {body("\x00\xff"), "read the fleet's answer"},
		"nothing":                   {body(""), "read the fleet's answer"},
		"certificates of the fleet": {func(rw http.ResponseWriter, _ *http.Request) { _ = est.WriteCACerts(rw, w.authority().Certificates()) }, "not for the operational key"},
	} {
		t.Run(name, func(t *testing.T) {
			i := g.start()
			g.fleet.API = []string{w.through(wire.PathSimpleEnroll, c.answer)}
			_, err := i.step(t.Context(), "")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if _, ok := i.Current(); ok {
				t.Error("the device uses it")
			}
		})
	}
	g.fleet.API = w.settings.Public.API
	i = g.start()
	g.step(i, "")
	if serial(i) == "" {
		t.Error("the device does not recover")
	}
}

func TestRevokedDeviceIsToldSoAndAsksSeldom(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	_, i := w.enrolled()
	w.must(w.api.Revoke(t.Context(), i.Device(), operator.Decision{By: "olga", Reason: "stolen"}))
	_, err := i.step(t.Context(), "test")
	for _, err := range []error{err, i.Rotate(t.Context())} {
		var refused *Refused
		if !errors.As(err, &refused) || refused.Rule != "revoked" || !strings.Contains(err.Error(), "ask the operator") {
			t.Fatalf("error %v", err)
		}
	}
	for range 100 {
		if wait := backoff(err, 0); wait < lastBackoff || wait > 2*lastBackoff {
			t.Fatalf("a revoked device asks again after %s", wait)
		}
	}
}

// Quarantine takes the certificate away at once; trust gives it back without a person.
func TestQuarantineAndBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g, i := w.enrolled()
	w.must(g.power.Extend(t.Context(), 4, [32]byte{1})) // something that no log explains
	g.step(i, "the verdict is untrusted")
	c, _ := i.Current()
	if c.Identity != wire.QuarantineID(i.Device()) {
		t.Fatalf("the certificate is for %s", c.Identity)
	}
	certificates, err := w.server.Store().Certificates(t.Context(), i.Device())
	w.must(err)
	for _, other := range certificates {
		if other.Serial != c.Serial() && other.RevokedAt.IsZero() {
			t.Errorf("%s certificate %s is still good", other.Profile, other.Serial)
		}
	}
	g.step(i, "quarantine is renewed as any other")
	again, _ := i.Current()
	if again.Identity != c.Identity || again.Serial() == c.Serial() {
		t.Errorf("renewed to %s for %s", again.Serial(), again.Identity)
	}
	if d, err := w.server.Store().Device(t.Context(), i.Device()); err != nil || d.State != registry.Quarantined {
		t.Errorf("state %s, %v", d.State, err)
	}
	if verdict := g.verdicts[len(g.verdicts)-1]; verdict.Renew || verdict.Gate != wire.GateQuarantine {
		t.Errorf("a device with the certificate that it may have is told to renew: %+v", verdict)
	}
}

func TestServerIsTheFleets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	authority, foreign := w.authority(), newWorld(t, nil).authority()
	trust := w.trust()
	trust.API, trust.Broker = []string{"https://fleet.example:8443"}, []string{"mqtts://192.0.2.7:8883"}
	now := time.Now()
	day := 24 * time.Hour
	clock := func(at time.Time, trusted bool) *fakeClock {
		return &fakeClock{offset: time.Until(at), trusted: trusted, floor: now.AddDate(0, 0, -30)}
	}
	good, untrusted := clock(now, true), false
	for name, c := range map[string]struct {
		by    *ca.CA
		from  time.Time
		names []string
		sni   string
		clock *fakeClock
		want  string // "" if it is accepted
	}{
		"good":                              {authority, now, []string{"fleet.example"}, "fleet.example", good, ""},
		"good by address":                   {authority, now, []string{"192.0.2.7"}, "", good, ""},
		"another fleet":                     {foreign, now, []string{"fleet.example"}, "fleet.example", good, "unknown authority"},
		"another name":                      {authority, now, []string{"other.example"}, "fleet.example", good, "valid for other.example"},
		"an address of nobody":              {authority, now, []string{"192.0.2.8"}, "", good, "none of the fleet's addresses"},
		"a name where an address was asked": {authority, now, []string{"fleet.example"}, "", good, "none of the fleet's addresses"},
		"expired":                           {authority, now.Add(-10 * day), []string{"fleet.example"}, "fleet.example", good, "expired"},
		"clock at 1970":                     {authority, now, []string{"fleet.example"}, "fleet.example", clock(time.Unix(0, 0), untrusted), ""},
		"clock ten years ahead":             {authority, now, []string{"fleet.example"}, "fleet.example", clock(now.AddDate(10, 0, 0), untrusted), ""},
		"clock ten years ahead, believed":   {authority, now, []string{"fleet.example"}, "fleet.example", clock(now.AddDate(10, 0, 0), true), "expired"},
		"ended before the floor":            {authority, now.AddDate(0, 0, -60), []string{"fleet.example"}, "fleet.example", clock(time.Unix(0, 0), untrusted), "expired"},
		"another fleet, clock at 1970":      {foreign, now, []string{"fleet.example"}, "fleet.example", clock(time.Unix(0, 0), untrusted), "unknown authority"},
		"of tomorrow, clock believed":       {authority, now.Add(day), []string{"fleet.example"}, "fleet.example", good, "not yet valid"},
	} {
		t.Run(name, func(t *testing.T) {
			leaf, chain, err := c.by.Issue(ca.Service, wire.FleetIdentity, newKey(t).Public(), c.from, 7*day, c.names...)
			if err != nil {
				t.Fatal(err)
			}
			state := tls.ConnectionState{ServerName: c.sni, PeerCertificates: append([]*x509.Certificate{leaf}, chain...)}
			err = verifyServer(state, trust, c.clock)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	leaf, chain, err := authority.Issue(ca.Full, "gw-aaaaaaaaaaaaaaaa", newKey(t).Public(), now, day)
	w.must(err)
	if err := verifyServer(tls.ConnectionState{PeerCertificates: append([]*x509.Certificate{leaf}, chain...)}, trust, good); err == nil {
		t.Error("a device's certificate passes for the fleet's")
	}
	if err := verifyServer(tls.ConnectionState{}, trust, good); err == nil {
		t.Error("a server without a certificate passes")
	}
}

func TestWrongCAIsSeenBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	w, other := newWorld(t, nil), newWorld(t, nil)
	g := w.gateway()
	var asked atomic.Int32
	g.fleet.API = []string{other.impostor(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))}
	i := g.start()
	if _, err := i.step(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("error %v", err)
	}
	if asked.Load() > 0 {
		t.Error("the request reached a server of another fleet")
	}
	// One that takes the connection and never speaks must not hold the exchange for ever.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	t.Cleanup(func() { silent.Close() })
	g.fleet.API = []string{"https://" + silent.Addr().String()}
	i.anyone.http.Transport.(*http.Transport).TLSHandshakeTimeout = 200 * time.Millisecond
	if _, err := i.step(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "timeout") {
		t.Errorf("error %v", err)
	}
}
