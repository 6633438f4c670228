package fleet

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/gatewarden/gatewarden/fleet/ca"
	"github.com/gatewarden/gatewarden/internal/mqttconn"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const (
	sweepEvery  = 15 * time.Second
	sweepSpan   = 10 * time.Minute // a broker's list of revoked certificates is younger than that
	sweepAnswer = 5 * time.Second  // what a broker may take for one connection
)

// Broker is the MQTT 5 broker beside the server. Without Addresses the server runs
// its own.
type Broker struct {
	Addresses   []string `toml:"addresses"`   // mqtts://host:port, tried in turn
	CA          string   `toml:"ca"`          // PEM file with who vouches for the broker; empty: the fleet's root
	Certificate string   `toml:"certificate"` // PEM file of what the server shows; empty: a certificate of the fleet, made anew as needed
	Key         string   `toml:"key"`         // PEM file that goes with it
}

func (b Broker) external() bool { return len(b.Addresses) > 0 }

func (b Broker) check() error {
	if !b.external() && b.CA+b.Certificate+b.Key != "" {
		return errors.New("`broker.ca`, `broker.certificate` and `broker.key` are for an external broker, and no `broker.addresses` names one")
	}
	if (b.Certificate == "") != (b.Key == "") {
		return errors.New("`broker.certificate` and `broker.key` go together")
	}
	return checkAddresses("broker.addresses", "mqtts", b.Addresses)
}

// client is how the server connects to it. The files are read for each attempt: one
// that was renewed counts from the next.
func (b Broker) client(own *serviceCertificate) func() (*tls.Config, error) {
	return func() (*tls.Config, error) {
		config, err := own.client("")()
		if err != nil {
			return nil, err
		}
		config = config.Clone()
		if b.CA != "" {
			if config.RootCAs, err = readRoots(b.CA); err != nil {
				return nil, fmt.Errorf("%w\nhint: `broker.ca` in fleet.toml names a PEM file; leave it out where the broker's certificate is of `gatewarden-fleet ca peer`", err)
			}
		}
		if b.Certificate != "" {
			pair, err := tls.LoadX509KeyPair(b.Certificate, b.Key)
			if err != nil {
				return nil, fmt.Errorf("read certificate for the broker: %w\nhint: `broker.certificate` and `broker.key` in fleet.toml name PEM files", err)
			}
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		return config, nil
	}
}

func readRoots(path string) (*x509.CertPool, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the broker's CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("read the broker's CA: %s holds no certificate", path)
	}
	return pool, nil
}

// shareGroup names the share of the fleet's servers in its messages. All replicas
// have the key, and nobody else can guess the name.
func shareGroup(key ed25519.PrivateKey) string {
	mac := hmac.New(sha256.New, key.Seed())
	mac.Write([]byte("gw-share-v1"))
	return "fleet-" + hex.EncodeToString(mac.Sum(nil)[:16])
}

// drop ends the sessions of an identity: at once in the embedded broker, and by
// sweep where another runs.
func (s *Server) drop(identity string) {
	if s.broker != nil {
		s.broker.Drop(identity)
		return
	}
	select {
	case s.ended <- struct{}{}:
	default: // it looks already
	}
}

// serveBroker runs the embedded broker, or ends at another what has ended here.
func (s *Server) serveBroker(ctx context.Context) error {
	if s.broker != nil {
		return s.broker.Serve(ctx, s.mqtt)
	}
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("end sessions at the broker", "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.ended:
		case <-ticker.C:
		}
	}
}

// sweep ends the sessions of identities that ended lately. An external broker asks
// about a certificate when a session begins and never again; and until it has the new
// list it lets the revoked one in again, so this is repeated beyond that.
func (s *Server) sweep(ctx context.Context) error {
	ended := func() ([]string, error) { return s.store.Ended(ctx, s.now().Add(-sweepSpan), s.now()) }
	identities, err := ended()
	if err != nil {
		return err
	}
	for _, identity := range identities {
		// Those before it took their time: it may be good again, and have a new session.
		still, again := ended()
		if again == nil && slices.Contains(still, identity) {
			again = s.evict(ctx, identity)
		}
		err = errors.Join(err, again)
	}
	return err
}

// evict comes in as identity itself. That ends the older connection (MQTT 5,
// 3.1.4-3), and Clean Start what was kept for it (3.1.2.4). The certificate is in
// no journal: nothing of ours takes it.
func (s *Server) evict(ctx context.Context, identity string) error {
	_, quarantined, _ := wire.DeviceOf(identity)
	profile := ca.Full
	if quarantined {
		profile = ca.Quarantine
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	leaf, chain, err := s.ca.Issue(profile, identity, key.Public(), s.now(), time.Minute)
	if err != nil {
		return err
	}
	cert := tls.Certificate{PrivateKey: key, Leaf: leaf, Certificate: [][]byte{leaf.Raw, chain[0].Raw}}
	config, err := s.settings.Broker.client(s.service)()
	if err != nil {
		return err
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	for _, address := range s.settings.Broker.Addresses {
		var conn *mqttconn.Conn
		conn, err = mqttconn.Dial(ctx, mqttconn.Options{
			URL: address, TLS: config, ClientID: identity, KeepAlive: time.Minute, SessionExpiry: time.Second, Clean: true, Timeout: sweepAnswer,
			MaxTopic: wire.MaxTopic, MaxPayload: 1, MaxPacket: wire.MaxMessage, Ahead: 1, OnMessage: func(mqttconn.Message) {},
		})
		if err == nil {
			conn.Close()
			return nil
		}
	}
	return fmt.Errorf("end session of %s: %w", identity, err)
}
