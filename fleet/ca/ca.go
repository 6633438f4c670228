// Package ca is the fleet's certificate authority: an off-line root and three
// intermediates, one for trusted devices, one for quarantined ones, one for the
// fleet's own services.
//
// Its promise: no certificate says more than its issuer is for. A device's can't
// serve, a quarantined device's can't pass for a trusted one, and a service's
// can't carry a device's name.
package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/gatewarden/gatewarden/internal/fsx"
)

// Names of the intermediates; their files are <name>.pem and <name>.key.
const (
	devices    = "devices"
	quarantine = "quarantine"
	services   = "services"
)

const (
	rootName   = "root"
	recordFile = "ca.json"
	maxFile    = 64 << 10 // bytes, of any file of the CA
)

// names returns the intermediates in the order in which they are made.
func names() []string { return []string{devices, quarantine, services} }

// record is ca.json. It is written last: with it a CA is complete.
type record struct {
	Version int    `json:"v"` // 1
	Fleet   string `json:"fleet"`
}

type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// CA issues certificates. Safe for concurrent use.
type CA struct {
	fleet   string
	root    *x509.Certificate
	issuers map[string]issuer
}

// ErrExists says that a folder holds a complete CA already: Init never replaces one.
var ErrExists = errors.New("a certificate authority exists already")

// Open reads a CA that Init made. It never opens the root's key, which belongs
// off line.
func Open(dir string) (*CA, error) {
	var disk fsx.FS
	var rec record
	if err := disk.ReadJSON(filepath.Join(dir, recordFile), maxFile, &rec); err != nil {
		return nil, fmt.Errorf("open certificate authority: %w", err)
	}
	if rec.Version != 1 || rec.Fleet == "" {
		return nil, fmt.Errorf("open certificate authority: %s of version %d", recordFile, rec.Version)
	}
	root, err := readCertificate(&disk, dir, rootName)
	if err != nil {
		return nil, fmt.Errorf("open certificate authority: %w", err)
	}
	c := &CA{fleet: rec.Fleet, root: root, issuers: make(map[string]issuer)}
	for _, name := range names() {
		if c.issuers[name], err = readIssuer(&disk, dir, name, root); err != nil {
			return nil, fmt.Errorf("open certificate authority: %w", err)
		}
	}
	return c, nil
}

func readIssuer(disk *fsx.FS, dir, name string, root *x509.Certificate) (issuer, error) {
	cert, err := readCertificate(disk, dir, name)
	if err != nil {
		return issuer{}, err
	}
	key, err := readKey(disk, dir, name)
	if err != nil {
		return issuer{}, err
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return issuer{}, fmt.Errorf("%s.key is not the key of %s.pem", name, name)
	}
	if err := cert.CheckSignatureFrom(root); err != nil {
		return issuer{}, fmt.Errorf("%s.pem is not issued by %s.pem: %w", name, rootName, err)
	}
	return issuer{cert, key}, nil
}

func readCertificate(disk *fsx.FS, dir, name string) (*x509.Certificate, error) {
	path := filepath.Join(dir, name+".pem")
	data, err := disk.ReadFile(path, maxFile)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%s is not one certificate in PEM", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return cert, nil
}

func readKey(disk *fsx.FS, dir, name string) (*ecdsa.PrivateKey, error) {
	path := filepath.Join(dir, name+".key")
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is open to others (%s): chmod 600 it", path, info.Mode().Perm())
	}
	data, err := disk.ReadFile(path, maxFile)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("%s is not a private key in PEM", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%s is not an ECDSA P-256 key", path)
	}
	return key, nil
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

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

// Certificates returns the root and the intermediates: what /cacerts answers.
func (c *CA) Certificates() []*x509.Certificate {
	all := []*x509.Certificate{c.root}
	for _, name := range names() {
		all = append(all, c.issuers[name].cert)
	}
	return all
}

// Chain returns the certificates beside the leaf and the root that leaves of p
// need; nil for an unknown profile.
func (c *CA) Chain(p Profile) []*x509.Certificate {
	name, ok := map[Profile]string{Full: devices, Short: devices, Quarantine: quarantine, Service: services}[p]
	if !ok {
		return nil
	}
	return []*x509.Certificate{c.issuers[name].cert}
}

func encodePEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// A root lives 10 years, an intermediate 5.
const (
	rootLife         = 10 * 365 * 24 * time.Hour
	intermediateLife = 5 * 365 * 24 * time.Hour
)
