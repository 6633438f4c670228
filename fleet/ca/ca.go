// Package ca is the fleet's certificate authority: an off-line root and three
// intermediates, one for trusted devices, one for quarantined ones, one for the
// fleet's own services. Each intermediate may have generations: the newest issues,
// the older ones are good until they expire.
//
// Its promise: no certificate says more than its issuer is for. A device's can't
// serve, a quarantined device's can't pass for a trusted one, and a service's
// can't carry a device's name.
package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Names of the intermediates; the files of their first generation are <name>.pem
// and <name>.key, of later ones <name>-2.pem and so on.
const (
	devices    = "devices"
	quarantine = "quarantine"
	services   = "services"
)

// names returns the intermediates in the order in which they are made.
func names() []string { return []string{devices, quarantine, services} }

type issuer struct {
	file string // name of its files, without .pem and .key
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// CA issues certificates. Safe for concurrent use.
type CA struct {
	fleet   string
	root    *x509.Certificate
	issuers map[string][]issuer // generations, oldest first
}

// ErrExists says that a folder holds a complete CA already: Init never replaces one.
var ErrExists = errors.New("a certificate authority exists already; `ca rollover` makes new intermediates of it")

// Fleet is the fleet's id.
func (c *CA) Fleet() string { return c.fleet }

// Anchors is the root certificate in PEM: what peers pin.
func (c *CA) Anchors() []byte { return encodePEM(c.root) }

// Roots is Anchors as a pool.
func (c *CA) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.root)
	return pool
}

// Certificates returns the root and of each intermediate the generation that
// issues and the one before: what /cacerts answers.
func (c *CA) Certificates() []*x509.Certificate {
	all := []*x509.Certificate{c.root}
	for _, name := range names() {
		generations := c.issuers[name]
		for _, i := range generations[max(0, len(generations)-2):] {
			all = append(all, i.cert)
		}
	}
	return all
}

// nameOf is the intermediate that issues p, "" for an unknown profile.
func nameOf(p Profile) string {
	return map[Profile]string{Full: devices, Short: devices, Quarantine: quarantine, Service: services}[p]
}

func (c *CA) current(name string) issuer {
	generations := c.issuers[name]
	return generations[len(generations)-1]
}

// Chain returns the certificates beside the leaf and the root that leaves of p
// need when they are issued now; nil for an unknown profile.
func (c *CA) Chain(p Profile) []*x509.Certificate {
	name := nameOf(p)
	if name == "" {
		return nil
	}
	return []*x509.Certificate{c.current(name).cert}
}

// Issuers returns all intermediates that good leaves of these profiles may come
// from, of every generation.
func (c *CA) Issuers(profiles ...Profile) []*x509.Certificate {
	var all []*x509.Certificate
	for _, name := range names() {
		if !slices.ContainsFunc(profiles, func(p Profile) bool { return nameOf(p) == name }) {
			continue
		}
		for _, i := range c.issuers[name] {
			all = append(all, i.cert)
		}
	}
	return all
}

// Intermediate is one generation of an intermediate.
type Intermediate struct {
	Name    string // of its files: devices, devices-2, ...
	Cert    *x509.Certificate
	Current bool // it issues; else its certificates are good until they expire
}

// Intermediates returns all, by kind, oldest first.
func (c *CA) Intermediates() []Intermediate {
	var all []Intermediate
	for _, name := range names() {
		for n, i := range c.issuers[name] {
			all = append(all, Intermediate{Name: i.file, Cert: i.cert, Current: n == len(c.issuers[name])-1})
		}
	}
	return all
}

// Issued says whether one of p's intermediates signed cert.
func (c *CA) Issued(p Profile, cert *x509.Certificate) bool {
	return slices.ContainsFunc(c.Issuers(p), func(i *x509.Certificate) bool { return cert.CheckSignatureFrom(i) == nil })
}

// find returns the intermediate with this certificate.
func (c *CA) find(cert *x509.Certificate) (issuer, error) {
	for _, generations := range c.issuers {
		for _, i := range generations {
			if bytes.Equal(i.cert.Raw, cert.Raw) {
				return i, nil
			}
		}
	}
	return issuer{}, fmt.Errorf("%q is no intermediate of this authority", cert.Subject.CommonName)
}

func encodePEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// A root lives 10 years, an intermediate 5.
const (
	rootLife         = 10 * 365 * 24 * time.Hour
	intermediateLife = 5 * 365 * 24 * time.Hour
)
