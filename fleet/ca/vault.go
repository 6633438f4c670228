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

	"github.com/gatewarden/gatewarden/internal/fsx"
)

const (
	rootName   = "root"
	recordFile = "ca.json"
	maxFile    = 64 << 10 // bytes, of any file of the CA
)

// Vault is the folder of a CA and what opens the keys in it.
type Vault struct {
	Dir string
	// Passphrase of the intermediates' keys. With one, a key that lies there in the
	// clear is refused; without, one that is encrypted is.
	Passphrase []byte
	// RootPassphrase is that of root.key, which need not lie in Dir.
	RootPassphrase []byte
	FS             fsx.FS
}

// record is ca.json. It is written last: with it a CA is complete, and with its
// next content a new generation counts.
type record struct {
	Version int    `json:"v"` // 1; 2 with Issuers
	Fleet   string `json:"fleet"`
	// Issuers names the files of each intermediate's generations, oldest first.
	// Without it each has one, by its own name.
	Issuers map[string][]string `json:"issuers,omitempty"`
}

// Open reads a CA whose keys are in the clear.
func Open(dir string) (*CA, error) { return (&Vault{Dir: dir}).Open() }

// Open reads a CA that Init made. It never opens the root's key, which belongs
// off line.
func (v *Vault) Open() (*CA, error) {
	rec, err := v.readRecord()
	if err != nil {
		return nil, fmt.Errorf("open certificate authority: %w", err)
	}
	root, err := v.readCertificate(rootName)
	if err != nil {
		return nil, fmt.Errorf("open certificate authority: %w", err)
	}
	c := &CA{fleet: rec.Fleet, root: root, issuers: make(map[string][]issuer)}
	for _, name := range names() {
		for _, file := range rec.Issuers[name] {
			i, err := v.readIssuer(file, root)
			if err != nil {
				return nil, fmt.Errorf("open certificate authority: %w", err)
			}
			c.issuers[name] = append(c.issuers[name], i)
		}
	}
	return c, nil
}

func (v *Vault) readRecord() (record, error) {
	var rec record
	if err := v.FS.ReadJSON(filepath.Join(v.Dir, recordFile), maxFile, &rec); err != nil {
		return rec, err
	}
	if rec.Version < 1 || rec.Version > 2 || rec.Fleet == "" || (rec.Version == 2) != (rec.Issuers != nil) {
		return rec, fmt.Errorf("%s of version %d", recordFile, rec.Version)
	}
	if rec.Version == 1 {
		rec.Issuers = make(map[string][]string)
		for _, name := range names() {
			rec.Issuers[name] = []string{name}
		}
	}
	for _, name := range names() {
		if len(rec.Issuers[name]) == 0 {
			return rec, fmt.Errorf("%s names no intermediate %s", recordFile, name)
		}
		for _, file := range rec.Issuers[name] {
			if generation(name, file) == 0 {
				return rec, fmt.Errorf("%s names %q as an intermediate %s", recordFile, file, name)
			}
		}
	}
	return rec, nil
}

func (v *Vault) readIssuer(file string, root *x509.Certificate) (issuer, error) {
	cert, err := v.readCertificate(file)
	if err != nil {
		return issuer{}, err
	}
	path := filepath.Join(v.Dir, file+".key")
	key, encrypted, err := readKey(&v.FS, path, v.Passphrase)
	if err != nil {
		return issuer{}, err
	}
	if !encrypted && v.Passphrase != nil {
		return issuer{}, fmt.Errorf("%s lies there in the clear, though a passphrase is set: run `gatewarden-fleet ca encrypt`", path)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return issuer{}, fmt.Errorf("%s.key is not the key of %s.pem", file, file)
	}
	if err := cert.CheckSignatureFrom(root); err != nil {
		return issuer{}, fmt.Errorf("%s.pem is not issued by %s.pem: %w", file, rootName, err)
	}
	return issuer{file, cert, key}, nil
}

func (v *Vault) readCertificate(name string) (*x509.Certificate, error) {
	path := filepath.Join(v.Dir, name+".pem")
	data, err := v.FS.ReadFile(path, maxFile)
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

// readKey reads a key, encrypted or not.
func readKey(disk *fsx.FS, path string, passphrase []byte) (key *ecdsa.PrivateKey, encrypted bool, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, false, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, false, fmt.Errorf("%s is open to others (%s): chmod 600 it", path, info.Mode().Perm())
	}
	data, err := disk.ReadFile(path, maxFile)
	if err != nil {
		return nil, false, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != pemPlain && block.Type != pemEncrypted {
		return nil, false, fmt.Errorf("%s is not a private key in PEM", path)
	}
	der := block.Bytes
	if encrypted = block.Type == pemEncrypted; encrypted {
		if der, err = decryptKey(der, passphrase); err != nil {
			return nil, true, fmt.Errorf("open %s: %w", path, err)
		}
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil && encrypted {
		err = ErrPassphrase // the padding came out right by chance
	}
	if err != nil {
		return nil, encrypted, fmt.Errorf("read %s: %w", path, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, encrypted, fmt.Errorf("%s is not an ECDSA P-256 key", path)
	}
	return key, encrypted, nil
}

// writeKey encrypts key if there is a passphrase.
func writeKey(disk *fsx.FS, path string, key *ecdsa.PrivateKey, passphrase []byte) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode key: %w", err)
	}
	block := &pem.Block{Type: pemPlain, Bytes: der}
	if passphrase != nil {
		block.Type = pemEncrypted
		if block.Bytes, err = encryptKey(der, passphrase); err != nil {
			return err
		}
	}
	return disk.WriteFile(path, pem.EncodeToMemory(block), 0o600)
}

// Encrypt encrypts with Passphrase every key of the intermediates that lies there
// in the clear. It may be interrupted and repeated.
func (v *Vault) Encrypt() error {
	if v.Passphrase == nil {
		return errors.New("encrypt keys: there is no passphrase")
	}
	rec, err := v.readRecord()
	if err != nil {
		return fmt.Errorf("encrypt keys: %w", err)
	}
	for _, name := range names() {
		for _, file := range rec.Issuers[name] {
			path := filepath.Join(v.Dir, file+".key")
			key, encrypted, err := readKey(&v.FS, path, v.Passphrase)
			if err == nil && !encrypted {
				err = writeKey(&v.FS, path, key, v.Passphrase)
			}
			if err != nil {
				return fmt.Errorf("encrypt keys: %w", err)
			}
		}
	}
	return nil
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }
