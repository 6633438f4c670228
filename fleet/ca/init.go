package ca

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// maxFleet is the longest fleet id, in bytes: it stands in the CN, which X.520
// limits to 64 characters.
const maxFleet = 40

// Init makes a CA whose keys are in the clear.
func Init(dir, fleet string, now time.Time) error { return (&Vault{Dir: dir}).Init(fleet, now) }

// Init makes a CA: root.key is to be moved off line afterwards, nothing but a new
// intermediate needs it. ErrExists if there is a complete one; what an interrupted
// Init left is replaced.
func (v *Vault) Init(fleet string, now time.Time) error {
	if fleet == "" || len(fleet) > maxFleet {
		return fmt.Errorf("make certificate authority: a fleet id has 1 to %d bytes", maxFleet)
	}
	if _, err := os.Lstat(filepath.Join(v.Dir, recordFile)); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("make certificate authority in %s: %w", v.Dir, errors.Join(ErrExists, err))
	}
	if err := v.FS.MkdirAll(v.Dir, 0o700); err != nil {
		return fmt.Errorf("make certificate authority: %w", err)
	}
	root, err := v.makeIssuer(rootName, authority(fleet, rootName, now, rootLife), nil, v.RootPassphrase)
	if err != nil {
		return fmt.Errorf("make certificate authority: %w", err)
	}
	for _, name := range names() {
		if _, err := v.makeIntermediate(name, name, fleet, now, &root); err != nil {
			return fmt.Errorf("make certificate authority: %w", err)
		}
	}
	if err := v.FS.WriteJSON(filepath.Join(v.Dir, recordFile), record{Version: 1, Fleet: fleet}, 0o644); err != nil {
		return fmt.Errorf("make certificate authority: %w", err)
	}
	return nil
}

// makeIntermediate makes a generation of the intermediate name, into file. Each has
// a subject of its own: peers find issuer and CRL by it.
func (v *Vault) makeIntermediate(name, file, fleet string, now time.Time, root *issuer) (issuer, error) {
	template := authority(fleet, file, now, intermediateLife)
	template.MaxPathLen, template.MaxPathLenZero = 0, true
	if template.NotAfter.After(root.cert.NotAfter) {
		template.NotAfter = root.cert.NotAfter
	}
	// The purpose bounds what an intermediate is good for. Name constraints
	// would add little, and crypto/x509 then refuses every URN in a leaf.
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if name == services {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	return v.makeIssuer(file, template, root, v.Passphrase)
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
func (v *Vault) makeIssuer(file string, template *x509.Certificate, parent *issuer, passphrase []byte) (issuer, error) {
	key, err := newKey()
	if err != nil {
		return issuer{}, fmt.Errorf("make key of %s: %w", file, err)
	}
	if template.SerialNumber, err = newSerial(template.NotBefore); err != nil {
		return issuer{}, err
	}
	if template.SubjectKeyId, err = keyID(&key.PublicKey); err != nil {
		return issuer{}, err
	}
	signer := issuer{file, template, key}
	if parent != nil {
		signer = *parent
	}
	cert, err := sign(template, signer, key.Public())
	if err != nil {
		return issuer{}, fmt.Errorf("make certificate of %s: %w", file, err)
	}
	if err := writeKey(&v.FS, filepath.Join(v.Dir, file+".key"), key, passphrase); err != nil {
		return issuer{}, err
	}
	if err := v.FS.WriteFile(filepath.Join(v.Dir, file+".pem"), encodePEM(cert), 0o644); err != nil {
		return issuer{}, err
	}
	return issuer{file, cert, key}, nil
}

func sign(template *x509.Certificate, by issuer, pub crypto.PublicKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, pub, by.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
