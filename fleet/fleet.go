// Package fleet wires the server together: registry, CA, verifier, broker,
// dispatch and dashboard. It decides nothing itself.
package fleet

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/broker"
	"github.com/gatewarden/gatewarden/fleet/ca"
	"github.com/gatewarden/gatewarden/fleet/device"
	"github.com/gatewarden/gatewarden/fleet/dispatch"
	"github.com/gatewarden/gatewarden/fleet/ear"
	"github.com/gatewarden/gatewarden/fleet/operator"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/fleet/release"
	"github.com/gatewarden/gatewarden/fleet/revocation"
	"github.com/gatewarden/gatewarden/fleet/verifier"
	"github.com/gatewarden/gatewarden/fleet/web"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const (
	halfMinute = 30 * time.Second
	day        = 24 * time.Hour
	week       = 7 * day
)

// pathUpdates is where devices find the update repository. It needs no client
// certificate: an ill device can always be healed.
const pathUpdates = "/v1/tuf/"

// pathResultKeys is where anybody finds the keys of attestation results.
const pathResultKeys = "/v1/results/jwks.json"

// Server is a fleet server that was set up but may not run yet.
type Server struct {
	settings Settings
	log      *slog.Logger
	now      func() time.Time
	store    *registry.Store
	ca       *ca.CA
	service  *serviceCertificate
	verifier *verifier.Verifier
	results  *ear.Keys
	version  string
	broker   *broker.Broker // nil: an external one
	ended    chan struct{}  // says that identities ended; for an external broker
	dispatch *dispatch.Dispatcher
	policy   atomic.Pointer[attest.Policy]
	feed     *policyFeed    // nil without an update repository
	makers   *x509.CertPool // of TPMs; nil where none are known

	api, mqtt, dashboard, operator    net.Listener
	apiHandler, webHandler, opHandler http.Handler
}

// New opens everything and takes all ports, so that what can't work is said at
// once. Close or Run must follow.
func New(s Settings, version string, log *slog.Logger) (*Server, error) {
	return NewByClock(s, version, time.Now, log)
}

// NewByClock is New with another clock than the system's for all that is decided by
// time; only intervals of housekeeping and time limits of connections go by that.
func NewByClock(s Settings, version string, now func() time.Time, log *slog.Logger) (*Server, error) {
	srv := &Server{settings: s, version: version, now: now, log: log, ended: make(chan struct{}, 1)}
	if err := srv.open(); err != nil {
		srv.Close()
		return nil, err
	}
	return srv, nil
}

func (s *Server) open() error {
	steps := []func() error{s.openState, s.openPolicy, s.openMakers, s.openVerifier, s.openBroker, s.openDispatch, s.openDeviceAPI, s.openOperatorAPI}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return s.openDashboard()
}

func (s *Server) openState() (err error) {
	vault, err := s.settings.Vault()
	if err != nil {
		return err
	}
	if s.ca, err = vault.Open(); errors.Is(err, ca.ErrPassphrase) {
		return fmt.Errorf("open CA: %w\nhint: `ca_passphrase` in fleet.toml, or the systemd credential %s, holds it", err, passphraseCredential)
	}
	if err != nil {
		return fmt.Errorf("open CA: %w\nhint: gatewarden-fleet init makes a new fleet", err)
	}
	if s.ca.Fleet() != s.settings.Fleet {
		return fmt.Errorf("%s holds the fleet %q, fleet.toml is for %q\nhint: a fleet's name never changes; set `fleet` or `state`", s.settings.State, s.ca.Fleet(), s.settings.Fleet)
	}
	if s.store, err = registry.OpenSQLite(filepath.Join(s.settings.State, "registry.db")); err != nil {
		return fmt.Errorf("open registry: %w", err)
	}
	s.service, err = newServiceCertificate(s.ca, s.settings.hosts(), s.now)
	return err
}

func (s *Server) openVerifier() (err error) {
	if s.results, err = ear.OpenKeys(&fsx.FS{}, filepath.Join(s.settings.State, resultKeys), s.now()); err != nil {
		return err
	}
	issuer, err := ear.New(ear.Config{Keys: s.results, Fleet: s.settings.Fleet, Build: s.version, Now: s.now})
	if err != nil {
		return err
	}
	s.verifier, err = verifier.New(verifier.Config{
		Registry: s.store, Fleet: s.settings.Fleet, Policy: s.currentPolicy, Now: s.now, Fell: s.fell, Results: issuer, Brake: s.settings.Gate.Brake, Log: s.log.With("part", "verifier"),
	})
	return err
}

// resultKeySet answers with the keys by which anybody verifies attestation results.
func (s *Server) resultKeySet(w http.ResponseWriter, _ *http.Request) {
	set, err := s.results.Set()
	if err != nil {
		s.log.Error("list result keys", "error", err)
		http.Error(w, "the fleet server could not do this now", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/jwk-set+json")
	w.Header().Set("Cache-Control", "max-age=3600")
	_, _ = w.Write(set) // the reader is gone: nothing to do
}

// fell ends the session of a device that is not trusted any more. The broker
// refuses its next one, because the registry says so already.
func (s *Server) fell(id string) { s.drop(id) }

func (s *Server) openBroker() (err error) {
	if s.settings.Broker.external() {
		_, err := s.settings.Broker.client(s.service)()
		return err
	}
	s.broker, err = broker.New(broker.Config{
		TLS: &tls.Config{
			MinVersion: tls.VersionTLS13, GetCertificate: s.service.get, ClientAuth: tls.RequireAndVerifyClientCert,
			ClientCAs: s.issuers(ca.Full, ca.Quarantine, ca.Service), Time: s.now,
			VerifyConnection: func(state tls.ConnectionState) error {
				return s.checkBrokerPeer(context.Background(), state.PeerCertificates[0])
			},
		},
		Authorize: s.authorize,
		Limits:    broker.DefaultLimits(),
		Log:       s.log.With("part", "broker"),
	})
	if err != nil {
		return err
	}
	s.mqtt, err = listen("tcp", s.settings.Listen.MQTT, "listen.mqtt")
	return err
}

// issuers are the CAs whose certificates a listener takes: never the root alone,
// so that each listener sees only the kinds that it is for.
func (s *Server) issuers(profiles ...ca.Profile) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, issuer := range s.ca.Issuers(profiles...) {
		pool.AddCert(issuer)
	}
	return pool
}

// checkBrokerPeer judges a verified certificate: the fleet's own client comes
// from the services CA, everybody else from the journal.
func (s *Server) checkBrokerPeer(ctx context.Context, cert *x509.Certificate) error {
	ours := s.ca.Issued(ca.Service, cert)
	if ours != (cert.Subject.CommonName == wire.FleetIdentity) {
		return fmt.Errorf("identity %s is not for this kind of certificate", cert.Subject.CommonName)
	}
	if ours {
		return nil
	}
	return device.CheckPeer(ctx, s.store, cert, s.now())
}

// authorize decides whether identity may have a session now.
func (s *Server) authorize(ctx context.Context, identity, _ string, peer *x509.Certificate) error {
	if err := s.checkBrokerPeer(ctx, peer); err != nil {
		return err
	}
	if identity == wire.FleetIdentity {
		return nil
	}
	id, quarantined, ok := wire.DeviceOf(identity)
	if !ok {
		return fmt.Errorf("%s is no device", identity)
	}
	d, err := s.store.Device(ctx, id)
	if err != nil {
		return fmt.Errorf("device %s: %w", id, err)
	}
	if d.State != registry.Active && d.State != registry.Quarantined || quarantined != (d.State == registry.Quarantined) {
		return fmt.Errorf("device %s is %s: the identity %s may not connect", id, d.State, identity)
	}
	return nil
}

// openMakers reads the certificates of TPM makers.
func (s *Server) openMakers() (err error) {
	if s.settings.EKRoots == "" {
		return nil
	}
	if s.makers, err = verifier.LoadRoots(s.settings.EKRoots); err != nil {
		return fmt.Errorf("%w\nhint: `ek_roots` in fleet.toml names a folder of PEM files; leave it out to decide about each device by hand", err)
	}
	return nil
}

func (s *Server) vouched(d registry.Device) bool { return verifier.Vouched(d, s.makers, s.now()) }

func (s *Server) openDeviceAPI() (err error) {
	c := s.settings.Certificates
	api, err := device.New(device.Config{
		Fleet: s.settings.Fleet, Registry: s.store, CA: s.ca, Verifier: s.verifier, EKRoots: s.makers,
		Lives: device.Lives{Full: time.Duration(c.Full), Short: time.Duration(c.Short), Quarantine: time.Duration(c.Quarantine)},
		Retry: time.Duration(s.settings.Enroll.Retry), Drop: s.drop, Now: s.now, Log: s.log.With("part", "device-api"),
	})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/", api)
	lists, err := revocation.New(revocation.Config{
		CA: s.ca, Registry: s.store, URL: s.settings.Public.API[0], Now: s.now, Log: s.log.With("part", "revocation"),
	})
	if err != nil {
		return err
	}
	for _, path := range []string{revocation.PathCRL, revocation.PathOCSP, revocation.PathOCSP + "/"} {
		mux.Handle(path, lists)
	}
	updates := http.StripPrefix(strings.TrimSuffix(pathUpdates, "/"), release.Handler(s.settings.Updates))
	mux.HandleFunc("GET "+pathResultKeys, s.resultKeySet)
	mux.HandleFunc(pathUpdates, func(w http.ResponseWriter, r *http.Request) {
		s.log.Debug("update file asked for", "path", r.URL.Path, "from", r.RemoteAddr)
		updates.ServeHTTP(w, r)
	})
	s.apiHandler = mux
	inner, err := listen("tcp", s.settings.Listen.API, "listen.api")
	if err != nil {
		return err
	}
	s.api = tls.NewListener(capConnections(inner), device.TLS(s.service.get, s.issuers(ca.Full, ca.Quarantine), s.store, s.now))
	return nil
}

func (s *Server) openOperatorAPI() (err error) {
	s.opHandler, err = operator.New(operator.Config{
		Fleet: s.settings.Fleet, Registry: s.store, Deliver: s.dispatch.Deliver, Drop: s.drop, Vouched: s.vouched, Now: s.now, Log: s.log.With("part", "operator-api"),
	})
	if err != nil {
		return err
	}
	path := s.settings.Listen.Operator
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return fmt.Errorf("make folder of operator socket: %w", err)
	}
	if err := removeStaleSocket(path); err != nil {
		return err
	}
	if s.operator, err = listen("unix", path, "listen.operator"); err != nil {
		return err
	}
	return os.Chmod(path, 0o660)
}

func (s *Server) openDashboard() (err error) {
	config := web.Config{
		Registry: s.store, Now: s.now, Fleet: s.settings.Fleet, Version: s.version, Log: s.log.With("part", "dashboard"),
	}
	if s.feed != nil {
		config.Releases = s.releases
	}
	s.webHandler, err = web.New(config)
	if err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(s.settings.Listen.Dashboard)
	if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("`listen.dashboard` is %q: until operators can sign in, the dashboard listens on loopback only\nhint: set it to 127.0.0.1:PORT", s.settings.Listen.Dashboard)
	}
	s.dashboard, err = listen("tcp", s.settings.Listen.Dashboard, "listen.dashboard")
	return err
}

// DashboardURL is where the dashboard answers.
func (s *Server) DashboardURL() string { return "http://" + s.dashboard.Addr().String() + "/" }

// Store is the registry, for the demo's own checks.
func (s *Server) Store() *registry.Store { return s.store }

// Run serves until ctx ends or a part fails.
func (s *Server) Run(ctx context.Context) error {
	defer s.Close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.serveBroker(ctx) })
	group.Go(func() error { return s.dispatch.Run(ctx) })
	group.Go(func() error { return serveHTTP(ctx, s.api, s.apiHandler, s.log) })
	group.Go(func() error { return serveHTTP(ctx, s.operator, s.opHandler, s.log) })
	group.Go(func() error { return serveHTTP(ctx, s.dashboard, s.webHandler, s.log) })
	group.Go(func() error { return s.housekeep(ctx) })
	err := group.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// housekeep bounds what the database keeps, and rotates keys.
func (s *Server) housekeep(ctx context.Context) error {
	ticker := time.NewTicker(10 * time.Minute)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			if err := s.store.Trim(ctx, 2000, s.now()); err != nil {
				s.log.Error("trim registry", "error", err)
			}
			if err := s.results.Rotate(s.now()); err != nil {
				s.log.Error("rotate result keys", "error", err)
			}
		}
	}
}

// Close releases what New took. It may be called twice.
func (s *Server) Close() {
	for _, l := range []net.Listener{s.api, s.mqtt, s.dashboard, s.operator} {
		if l != nil {
			l.Close() // closed before or now: either will do
		}
	}
	if s.store != nil {
		if err := s.store.Close(); err != nil {
			s.log.Error("close registry", "error", err)
		}
		s.store = nil
	}
}

func (s *Server) openDispatch() error {
	key, err := readMessageKey(s.settings.State)
	if err != nil {
		return err
	}
	s.dispatch, err = s.newDispatch(key)
	return err
}

func (s *Server) newDispatch(key ed25519.PrivateKey) (*dispatch.Dispatcher, error) {
	own := &attestation{verifier: s.verifier, log: s.log.With("part", "attestation")}
	c := dispatch.Config{
		Registry: s.store, MessageKey: key,
		OnHello: own.hello, OnEvidence: own.evidence, Now: s.now, Log: s.log.With("part", "dispatch"),
	}
	if broker := s.settings.Broker; broker.external() {
		c.Brokers, c.TLS, c.Group = broker.Addresses, broker.client(s.service), shareGroup(key)
	} else {
		c.Brokers, c.TLS = []string{"mqtts://" + loopback(s.mqtt.Addr())}, s.service.client(s.settings.hosts()[0])
	}
	d, err := dispatch.New(c)
	own.send = d
	return d, err
}
