package fleet

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/gatewarden/gatewarden/fleet/ca"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const (
	headerTimeout = 15 * time.Second
	bodyTimeout   = 90 * time.Second
	maxHeader     = 16 << 10
	serviceLife   = 30 * day
)

// serveHTTP serves until ctx ends, with a bound on everything that a slow or
// hostile caller could hold.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, ReadTimeout: bodyTimeout, IdleTimeout: bodyTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stopped := context.AfterFunc(ctx, func() { server.Close() }) // nothing is lost: devices repeat
	defer stopped()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return ctx.Err()
}

func listen(network, address, key string) (net.Listener, error) {
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, fmt.Errorf("%w\nhint: set another address for `%s` in fleet.toml, or end what uses this one", err, key)
	}
	return l, nil
}

// removeStaleSocket drops a socket that nobody listens on any more.
func removeStaleSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("%s is in the way and is no socket: remove it", path)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return fmt.Errorf("another server listens on %s already", path)
	}
	return os.Remove(path)
}

// loopback is how the server's own MQTT client reaches the embedded broker.
func loopback(addr net.Addr) string {
	host, port, _ := net.SplitHostPort(addr.String())
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// serviceCertificate is the server's own, made anew from the services CA at start,
// at two thirds of its life, and where it was made by a clock that was ahead. Safe
// for concurrent use.
type serviceCertificate struct {
	ca    *ca.CA
	hosts []string
	clock func() time.Time

	mu  sync.Mutex
	now *tls.Certificate
}

func newServiceCertificate(authority *ca.CA, hosts []string, clock func() time.Time) (*serviceCertificate, error) {
	s := &serviceCertificate{ca: authority, hosts: hosts, clock: clock}
	_, err := s.get(nil)
	return s, err
}

func (s *serviceCertificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock()
	if s.now != nil && s.now.Leaf.NotAfter.Sub(now) > serviceLife/3 && !now.Before(s.now.Leaf.NotBefore) {
		return s.now, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make server key: %w", err)
	}
	leaf, chain, err := s.ca.Issue(ca.Service, wire.FleetIdentity, key.Public(), now, serviceLife, s.hosts...)
	if err != nil {
		return nil, fmt.Errorf("issue server certificate: %w", err)
	}
	made := &tls.Certificate{PrivateKey: key, Leaf: leaf, Certificate: [][]byte{leaf.Raw}}
	for _, cert := range chain {
		made.Certificate = append(made.Certificate, cert.Raw)
	}
	s.now = made
	return made, nil
}

// client is how the server's own MQTT client connects. It reaches the broker by
// its loopback address, so the name to expect is given.
func (s *serviceCertificate) client(host string) func() (*tls.Config, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.ca.Anchors())
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: host, Time: s.clock,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return s.get(nil) },
	}
	return func() (*tls.Config, error) { return config, nil }
}
