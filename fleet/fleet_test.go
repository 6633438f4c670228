package fleet

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/ca"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// installed is a fleet that is ready to run, on free ports of loopback.
func installed(t *testing.T) Settings {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := DefaultSettings()
	s.Fleet, s.State, s.Policy = "lab", filepath.Join(dir, "state"), filepath.Join(dir, "policy.json")
	s.Listen = Listen{API: "127.0.0.1:0", MQTT: "127.0.0.1:0", Dashboard: "127.0.0.1:0", Operator: filepath.Join(dir, "o")}
	s.Public = Public{API: []string{"https://127.0.0.1:8443"}, MQTT: []string{"mqtts://127.0.0.1:8883"}}
	if err := Init(s, time.Now()); err != nil {
		t.Fatal(err)
	}
	writePolicy(t, s.Policy, "lab")
	return s
}

func writePolicy(t *testing.T, path, fleet string) {
	t.Helper()
	release := attest.Boot{CommandLine: "root=a", UKI: attest.Digest{1}, Kernel: attest.Digest{2}, Sections: []attest.Section{{Name: ".linux", Digest: attest.Digest{3}}}}
	raw, err := json.Marshal(attest.Policy{Version: 1, Issued: time.Now().UTC(), Fleet: fleet, Releases: []attest.Release{release.Release("lab", "1")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// What can't work is said at once, in one sentence and with a hint.
func TestServerThatCannotStartSaysWhy(t *testing.T) {
	busy := func(t *testing.T) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l.Addr().String()
	}
	for name, c := range map[string]struct {
		spoil func(t *testing.T, s *Settings)
		want  []string
	}{
		"API port taken":             {func(t *testing.T, s *Settings) { s.Listen.API = busy(t) }, []string{"address already in use", "listen.api"}},
		"MQTT port taken":            {func(t *testing.T, s *Settings) { s.Listen.MQTT = busy(t) }, []string{"address already in use", "listen.mqtt"}},
		"dashboard port taken":       {func(t *testing.T, s *Settings) { s.Listen.Dashboard = busy(t) }, []string{"address already in use", "listen.dashboard"}},
		"no CA":                      {func(t *testing.T, s *Settings) { remove(t, s.State, "ca") }, []string{"CA", "gatewarden-fleet init"}},
		"no state at all":            {func(t *testing.T, s *Settings) { remove(t, s.State) }, []string{"CA", "gatewarden-fleet init"}},
		"no message key":             {func(t *testing.T, s *Settings) { remove(t, s.State, messageKeyFile) }, []string{"message key", "gatewarden-fleet init"}},
		"damaged message key":        {func(t *testing.T, s *Settings) { write(t, "x", s.State, messageKeyFile) }, []string{"message.key is no PEM file"}},
		"no policy":                  {func(t *testing.T, s *Settings) { remove(t, s.Policy) }, []string{"attestation policy", "docs/policy.md"}},
		"malformed policy":           {func(t *testing.T, s *Settings) { write(t, "{", s.Policy) }, []string{"policy.json", "docs/policy.md"}},
		"policy of another fleet":    {func(t *testing.T, s *Settings) { writePolicy(t, s.Policy, "other") }, []string{`fleet "other"`, "`policy`"}},
		"another fleet's state":      {func(t *testing.T, s *Settings) { s.Fleet = "other" }, []string{`holds the fleet "lab"`, "`fleet`"}},
		"CA key open to others":      {func(t *testing.T, s *Settings) { chmod(t, 0o644, s.State, "ca", "devices.key") }, []string{"open to others", "chmod 600"}},
		"dashboard for everybody":    {func(t *testing.T, s *Settings) { s.Listen.Dashboard = "0.0.0.0:0" }, []string{"listen.dashboard", "loopback only", "127.0.0.1:PORT"}},
		"dashboard on any address":   {func(t *testing.T, s *Settings) { s.Listen.Dashboard = ":0" }, []string{"listen.dashboard", "loopback only"}},
		"dashboard without a port":   {func(t *testing.T, s *Settings) { s.Listen.Dashboard = "127.0.0.1" }, []string{"listen.dashboard"}},
		"no folder of makers":        {func(t *testing.T, s *Settings) { s.EKRoots = "/nonexistent" }, []string{"/nonexistent", "`ek_roots`"}},
		"empty folder of makers":     {func(t *testing.T, s *Settings) { s.EKRoots = t.TempDir() }, []string{"no certificate", "`ek_roots`"}},
		"operator socket in use":     {func(t *testing.T, s *Settings) { serveUnix(t, s.Listen.Operator) }, []string{"another server listens"}},
		"a file in the socket's way": {func(t *testing.T, s *Settings) { write(t, "precious", s.Listen.Operator) }, []string{"is no socket: remove it"}},
	} {
		t.Run(name, func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			s := installed(t)
			c.spoil(t, &s)
			srv, err := New(s, "test", slog.New(slog.DiscardHandler))
			if err == nil {
				srv.Close()
				t.Fatal("it starts")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			if text, _, _ := strings.Cut(err.Error(), "\nhint: "); strings.Contains(text, "\n") {
				t.Errorf("more than one line and a hint: %q", err)
			}
			goleak.VerifyNone(t, before)
		})
	}
}

func remove(t *testing.T, path ...string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(path...)); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, text string, path ...string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(path...), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func chmod(t *testing.T, mode os.FileMode, path ...string) {
	t.Helper()
	if err := os.Chmod(filepath.Join(path...), mode); err != nil {
		t.Fatal(err)
	}
}

func serveUnix(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
}

func TestServerStartsServesAndEndsWithNothingLeft(t *testing.T) {
	before := goleak.IgnoreCurrent()
	s := installed(t)
	// A socket that a killed server left behind is no obstacle.
	stale, err := net.Listen("unix", s.Listen.Operator)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	stale.Close()
	for range 2 { // the second start finds what the first left
		srv, err := New(s, "test", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(s.Listen.Operator); err != nil || info.Mode().Perm() != 0o660 {
			t.Errorf("operator socket: %v, %v", info, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- srv.Run(ctx) }()
		resp, err := http.Get(srv.DashboardURL() + "healthz")
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("dashboard: %v", err)
		}
		if err == nil {
			resp.Body.Close()
		}
		http.DefaultClient.CloseIdleConnections()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run ended with %v", err)
		}
	}
	goleak.VerifyNone(t, before)
}

func TestInitRefusesToTouchAFleetThatExists(t *testing.T) {
	s := installed(t)
	read := func() (all []byte) {
		for _, name := range []string{messageKeyFile, "trust/fleet.json", "ca/root.pem"} {
			data, err := os.ReadFile(filepath.Join(s.State, name))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, data...)
		}
		return all
	}
	before := read()
	if err := Init(s, time.Now()); err == nil || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("error %v", err)
	}
	if !bytes.Equal(before, read()) {
		t.Error("it changed something")
	}
	raw, err := os.ReadFile(filepath.Join(s.State, "trust", "fleet.json"))
	if err != nil {
		t.Fatal(err)
	}
	if f, err := policy.ParseFleet(raw); err != nil || f.Fleet != "lab" || len(f.Anchors) != 1 || len(f.MessageKeys) != 1 {
		t.Errorf("trust/fleet.json: %+v, %v", f, err)
	}
	if info, err := os.Stat(filepath.Join(s.State, messageKeyFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("message key: %v, %v", info, err)
	}
}

// The broker asks for each session; the answer follows the registry at once.
func TestBrokerSessionNeedsTheIdentityThatTheStateAllows(t *testing.T) {
	s := installed(t)
	srv, err := New(s, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	const id = "gw-aaaaaaaaaaaaaaaa"
	if _, _, err := srv.store.Enroll(t.Context(), registry.Device{ID: id, EKName: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	set := func(state string) {
		t.Helper()
		if err := srv.store.SetState(t.Context(), id, state, "olga", "test", time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	set(registry.Active)
	issue := func(p ca.Profile, identity string) func() error {
		cert, err := srv.service.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		leaf, _, err := srv.ca.Issue(p, identity, cert.Leaf.PublicKey, time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if p != ca.Service {
			if err := srv.store.AddCertificate(t.Context(), registry.Certificate{
				Serial: leaf.SerialNumber.Text(16), Device: id, Identity: identity, NotAfter: leaf.NotAfter, IssuedAt: time.Now(), DER: leaf.Raw,
			}, ""); err != nil {
				t.Fatal(err)
			}
		}
		return func() error { return srv.authorize(t.Context(), identity, "", leaf) }
	}
	full, quarantine := issue(ca.Full, id), issue(ca.Quarantine, wire.QuarantineID(id))
	for _, c := range []struct {
		state            string
		full, quarantine bool
	}{
		{registry.Active, true, false}, {registry.Quarantined, false, true}, {registry.Pending, false, false}, {registry.Revoked, false, false},
	} {
		set(c.state)
		if err := full(); (err == nil) != c.full {
			t.Errorf("%s, full certificate: %v", c.state, err)
		}
		if err := quarantine(); (err == nil) != c.quarantine {
			t.Errorf("%s, quarantine certificate: %v", c.state, err)
		}
	}
	if err := issue(ca.Service, wire.FleetIdentity)(); err != nil {
		t.Errorf("the fleet's own client: %v", err)
	}
	if err := issue(ca.Service, "another-service")(); err == nil {
		t.Error("another service may connect")
	}
	set(registry.Active)
	if _, err := srv.store.RevokeCertificates(t.Context(), id, "", "test", time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := full(); err == nil {
		t.Error("a revoked certificate may connect")
	}
}

func TestConnectionsOfTheAPIAreCapped(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &cappedListener{Listener: inner, slots: make(chan struct{}, 1), closed: make(chan struct{})}
	for range 2 {
		conn, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	first, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan error, 1)
	go func() {
		second, err := l.Accept()
		if err == nil {
			second.Close()
		}
		accepted <- err
	}()
	select {
	case <-accepted:
		t.Fatal("a second connection was taken")
	case <-time.After(50 * time.Millisecond):
	}
	first.Close()
	first.Close() // closing twice frees one slot
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	if len(l.slots) != 0 {
		t.Errorf("%d slots in use", len(l.slots))
	}
	l.slots <- struct{}{}
	go l.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// A server whose clock was wrong for a while must not go on with the certificate that
// it made then: gateways would refuse it until somebody restarts the server.
func TestServiceCertificateFollowsTheClockBack(t *testing.T) {
	s := installed(t)
	authority, err := ca.Open(filepath.Join(s.State, "ca"))
	if err != nil {
		t.Fatal(err)
	}
	var ahead time.Duration
	now := func() time.Time { return time.Now().Add(ahead) }
	service, err := newServiceCertificate(authority, s.hosts(), now)
	if err != nil {
		t.Fatal(err)
	}
	const year = 365 * day
	for _, ahead = range []time.Duration{0, year, 0, -10 * time.Minute, 0, 4 * year, year, 0} {
		cert, err := service.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		if now().Before(cert.Leaf.NotBefore) || now().After(cert.Leaf.NotAfter) {
			t.Errorf("with the clock %s ahead the certificate is for %s to %s", ahead, cert.Leaf.NotBefore, cert.Leaf.NotAfter)
		}
	}
}

func TestServiceCertificateCarriesEveryPublicName(t *testing.T) {
	s := installed(t)
	s.Public = Public{API: []string{"https://fleet.example:8443", "https://192.0.2.7:8443"}, MQTT: []string{"mqtts://fleet.example:8883"}}
	authority, err := ca.Open(filepath.Join(s.State, "ca"))
	if err != nil {
		t.Fatal(err)
	}
	service, err := newServiceCertificate(authority, s.hosts(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	var cert *tls.Certificate
	if cert, err = service.get(nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"fleet.example", "192.0.2.7"} {
		if err := cert.Leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if again, err := service.get(nil); err != nil || again != cert {
		t.Errorf("a fresh certificate is made at each handshake: %v", err)
	}
	cert.Leaf.NotAfter = time.Now().Add(time.Hour)
	if again, err := service.get(nil); err != nil || again == cert {
		t.Errorf("a certificate at its end is not replaced: %v", err)
	}
}
