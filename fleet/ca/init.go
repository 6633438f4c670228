package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/gatewarden/gatewarden/internal/fsx"
)

// maxFleet is the longest fleet id, in bytes: it stands in the CN, which X.520
// limits to 64 characters.
const maxFleet = 40

// Init makes a CA in dir: root.key is to be moved off line afterwards, nothing
// but a new intermediate needs it. ErrExists if there is a complete one; what an
// interrupted Init left is replaced.
func Init(dir, fleet string, now time.Time) error {
	if fleet == "" || len(fleet) > maxFleet {
		return fmt.Errorf("make certificate authority: a fleet id has 1 to %d bytes", maxFleet)
	}
	var disk fsx.FS
	if _, err := os.Lstat(filepath.Join(dir, recordFile)); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("make certificate authority in %s: %w", dir, errors.Join(ErrExists, err))
	}
	if err := disk.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make certificate authority: %w", err)
	}
	if err := makeAll(&disk, dir, fleet, now); err != nil {
		return fmt.Errorf("make certificate authority: %w", err)
	}
	if err := disk.WriteJSON(filepath.Join(dir, recordFile), record{Version: 1, Fleet: fleet}, 0o644); err != nil {
		return fmt.Errorf("make certificate authority: %w", err)
	}
	return nil
}

func makeAll(disk *fsx.FS, dir, fleet string, now time.Time) error {
	root, err := makeIssuer(disk, dir, rootName, authority(fleet, rootName, now, rootLife), nil)
	if err != nil {
		return err
	}
	for _, name := range names() {
		template := authority(fleet, name, now, intermediateLife)
		template.MaxPathLen, template.MaxPathLenZero = 0, true
		// The purpose bounds what an intermediate is good for. Name constraints
		// would add little, and crypto/x509 then refuses every URN in a leaf.
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		if name == services {
			template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		}
		if _, err := makeIssuer(disk, dir, name, template, &root); err != nil {
			return err
		}
	}
	return nil
}

// authority is what root and intermediates share.
func authority(fleet, name string, now time.Time, life time.Duration) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{Organization: []string{"Gatewarden"}, CommonName: fleet + " " + name}, NotBefore: now.Add(-backdate), NotAfter: now.Add(life),
		BasicConstraintsValid: true, IsCA: true, MaxPathLen: 1, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

// makeIssuer makes a key and its certificate, by itself if parent is nil, and
// writes the key first.
func makeIssuer(disk *fsx.FS, dir, name string, template *x509.Certificate, parent *issuer) (issuer, error) {
	key, err := newKey()
	if err != nil {
		return issuer{}, fmt.Errorf("make key of %s: %w", name, err)
	}
	if template.SerialNumber, err = newSerial(); err != nil {
		return issuer{}, err
	}
	if template.SubjectKeyId, err = keyID(&key.PublicKey); err != nil {
		return issuer{}, err
	}
	signer := issuer{template, key}
	if parent != nil {
		signer = *parent
	}
	cert, err := sign(template, signer, key.Public())
	if err != nil {
		return issuer{}, fmt.Errorf("make certificate of %s: %w", name, err)
	}
	if err := writeKey(disk, filepath.Join(dir, name+".key"), key); err != nil {
		return issuer{}, err
	}
	if err := disk.WriteFile(filepath.Join(dir, name+".pem"), encodePEM(cert), 0o644); err != nil {
		return issuer{}, err
	}
	return issuer{cert, key}, nil
}

func sign(template *x509.Certificate, by issuer, pub crypto.PublicKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, pub, by.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func writeKey(disk *fsx.FS, path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode key: %w", err)
	}
	return disk.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}
