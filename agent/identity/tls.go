package identity

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// clientTLS are the connections made with one credential. Its session caches go
// with it: a ticket never outlives the certificate that it was issued to. API and
// broker have one each, because at the same address both have the same cache key,
// and neither can use the other's tickets.
type clientTLS struct {
	broker *tls.Config
	http   *http.Client
}

// anonymous are the connections to the fleet's API without a certificate.
type anonymous struct{ http *http.Client }

func newAnonymous(fleet func() *policy.Fleet, clock Clock) *anonymous {
	return &anonymous{http: newHTTP(baseTLS(fleet, clock))}
}

// credential checks that key and chain belong together and to this device.
func (i *Identity) credential(key Key, chain []*x509.Certificate) (*Credential, error) {
	leaf := chain[0]
	public, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || !public.Equal(key.Public()) {
		return nil, errors.New("the certificate is not for the operational key")
	}
	device, _, ok := wire.DeviceOf(leaf.Subject.CommonName)
	if !ok || device != i.Device() {
		return nil, fmt.Errorf("the certificate is for %q, this device is %s", leaf.Subject.CommonName, i.Device())
	}
	c := &Credential{Key: key, Chain: chain, Identity: leaf.Subject.CommonName}
	if err := verifyChain(chain, i.cfg.Fleet()); err != nil {
		return nil, err
	}
	own := &tls.Certificate{
		PrivateKey: key,
		Leaf:       leaf,
		// TPMs sign P-256 with SHA-256; RSA in TLS 1.3 would mean PSS, which many refuse.
		SupportedSignatureAlgorithms: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
	}
	for _, cert := range chain {
		own.Certificate = append(own.Certificate, cert.Raw)
	}
	c.tls = &clientTLS{broker: i.clientTLS(own), http: newHTTP(i.clientTLS(own))}
	return c, nil
}

func (i *Identity) clientTLS(own *tls.Certificate) *tls.Config {
	config := baseTLS(i.cfg.Fleet, i.cfg.Clock)
	config.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own, nil }
	return config
}

// verifyChain checks that a certificate is of this fleet. Its period is the
// fleet's to judge, not that of a clock which may be wrong.
func verifyChain(chain []*x509.Certificate, fleet *policy.Fleet) error {
	intermediates := x509.NewCertPool()
	for _, cert := range chain[1:] {
		intermediates.AddCert(cert)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: anchors(fleet), Intermediates: intermediates, CurrentTime: chain[0].NotAfter,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return fmt.Errorf("the certificate is not of this fleet: %w", err)
	}
	return nil
}

func anchors(fleet *policy.Fleet) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, anchor := range fleet.Anchors {
		pool.AppendCertsFromPEM([]byte(anchor))
	}
	return pool
}

// TLS returns the configuration for a connection to a broker and the identity
// that it proves.
func (i *Identity) TLS() (*tls.Config, string, error) {
	c, ok := i.Current()
	if !ok {
		return nil, "", errors.New("the device has no certificate yet")
	}
	return c.tls.broker.Clone(), c.Identity, nil
}

// baseTLS authenticates the server. Go's own check is replaced because it can't
// do what a device without a clock needs; verifyServer checks the same chain and
// name on every connection, resumed ones too.
func baseTLS(fleet func() *policy.Fleet, clock Clock) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, //nolint:gosec // replaced by VerifyConnection
		VerifyConnection: func(state tls.ConnectionState) error {
			return verifyServer(state, fleet(), clock)
		},
	}
}

// verifyServer checks the server's chain against the pinned anchors (RFC 5280,
// section 6) and its name (RFC 9525). Where this boot has no trustworthy time the
// validity period is checked only against the floor: a clock at 1970 must not keep
// a device from its fleet, and a server certificate that ended before the floor is
// refused all the same.
func verifyServer(state tls.ConnectionState, fleet *policy.Fleet, clock Clock) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("server showed no certificate")
	}
	leaf := state.PeerCertificates[0]
	at, trusted := clock.Now()
	if !trusted {
		at = clamp(at, clock.Floor(), leaf)
	}
	intermediates := x509.NewCertPool()
	for _, cert := range state.PeerCertificates[1:] {
		intermediates.AddCert(cert)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: anchors(fleet), Intermediates: intermediates, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return fmt.Errorf("server certificate of %s: %w", leaf.Subject.CommonName, err)
	}
	return verifyName(state.ServerName, leaf, fleet)
}

// verifyName checks the name that was dialled. crypto/tls does not tell which
// address was dialled where it is an IP address; then the certificate must be for
// one of those that the pinned document names.
func verifyName(name string, leaf *x509.Certificate, fleet *policy.Fleet) error {
	if name != "" {
		return leaf.VerifyHostname(name)
	}
	for _, address := range slices.Concat(fleet.API, fleet.Broker) {
		u, err := url.Parse(address)
		if err == nil && net.ParseIP(u.Hostname()) != nil && leaf.VerifyHostname(u.Hostname()) == nil {
			return nil
		}
	}
	return errors.New("the server's certificate is for none of the fleet's addresses")
}

// clamp moves an untrusted time into the certificate's period, unless that period
// ended before the floor: then the certificate is expired whatever the clock says.
func clamp(at, floor time.Time, leaf *x509.Certificate) time.Time {
	switch {
	case leaf.NotAfter.Before(floor):
		return floor
	case at.Before(leaf.NotBefore):
		return leaf.NotBefore
	case at.After(leaf.NotAfter):
		return leaf.NotAfter
	}
	return at
}
