package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"

	"github.com/gatewarden/gatewarden/internal/wire"
)

// Profile is a kind of leaf certificate.
type Profile string

// Full and Short differ in nothing but the life that the caller gives them.
const (
	Full       Profile = "full"
	Short      Profile = "short"
	Quarantine Profile = "quarantine"
	Service    Profile = "service"
)

// backdate is how far what is signed begins before now: clocks of peers are behind.
const backdate = 5 * time.Minute

// issuerOf names the intermediate that issues a profile, and says whether that
// profile may carry identity.
func issuerOf(p Profile, identity string) (string, error) {
	_, quarantined, device := wire.DeviceOf(identity)
	switch {
	case (p == Full || p == Short) && device && !quarantined:
		return devices, nil
	case p == Quarantine && device && quarantined:
		return quarantine, nil
	case p == Service && !device && identity != "":
		return services, nil
	}
	return "", fmt.Errorf("profile %q can't carry the identity %q", p, identity)
}

// Issue makes a leaf: CN identity, URI urn:gatewarden:<fleet>:<identity>, valid
// from now - 5 min to now + life, but not longer than its issuer. pub must be
// ECDSA P-256. names are DNS names and IP addresses, for Service only. chain is
// what a peer needs beside the leaf and the anchor. Nothing is recorded: the
// caller journals the leaf before it leaves.
func (c *CA) Issue(p Profile, identity string, pub crypto.PublicKey, now time.Time, life time.Duration, names ...string) (leaf *x509.Certificate, chain []*x509.Certificate, err error) {
	name, err := issuerOf(p, identity)
	if err != nil {
		return nil, nil, fmt.Errorf("issue certificate: %w", err)
	}
	by := c.current(name)
	template, err := c.leaf(identity, pub, now, life)
	if err != nil {
		return nil, nil, fmt.Errorf("issue certificate for %s: %w", identity, err)
	}
	template.ExtKeyUsage = by.cert.ExtKeyUsage
	if err := addNames(template, p, names); err != nil {
		return nil, nil, fmt.Errorf("issue certificate for %s: %w", identity, err)
	}
	if template.NotAfter.After(by.cert.NotAfter) {
		template.NotAfter = by.cert.NotAfter
	}
	if !template.NotAfter.After(now) {
		return nil, nil, fmt.Errorf("issue certificate for %s: the intermediate %s has expired", identity, name)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, pub, by.key)
	if err != nil {
		return nil, nil, fmt.Errorf("issue certificate for %s: %w", identity, err)
	}
	if leaf, err = x509.ParseCertificate(der); err != nil {
		return nil, nil, fmt.Errorf("issue certificate for %s: %w", identity, err)
	}
	return leaf, []*x509.Certificate{by.cert}, nil
}

func (c *CA) leaf(identity string, pub crypto.PublicKey, now time.Time, life time.Duration) (*x509.Certificate, error) {
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("the key is not ECDSA P-256")
	}
	if life <= 0 {
		return nil, fmt.Errorf("a life of %s", life)
	}
	serial, err := newSerial(now)
	if err != nil {
		return nil, err
	}
	id, err := keyID(key)
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: identity}, NotBefore: now.Add(-backdate), NotAfter: now.Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, SubjectKeyId: id,
		URIs: []*url.URL{{Scheme: "urn", Opaque: "gatewarden:" + url.PathEscape(c.fleet) + ":" + url.PathEscape(identity)}},
	}, nil
}

func addNames(template *x509.Certificate, p Profile, names []string) error {
	if len(names) > 0 && p != Service {
		return fmt.Errorf("profile %q can't carry host names", p)
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	return nil
}

// newSerial is 0x40, six bytes of milliseconds and nine random ones (RFC 5280 wants
// none, the CA/Browser Forum eight): positive, in hex always 32 digits, so that
// everybody writes it the same way, and rising, so that the journal's index grows at
// its end. That is a third of what an entry costs.
func newSerial(now time.Time) (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("make serial: %w", err)
	}
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli()))
	b[0] = 0x40
	copy(b[1:7], ms[2:])
	return new(big.Int).SetBytes(b), nil
}

// keyID is RFC 7093, section 2, method 1.
func keyID(key *ecdsa.PublicKey) ([]byte, error) {
	point, err := key.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	sum := sha256.Sum256(point)
	return sum[:20], nil
}
