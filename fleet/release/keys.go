package release

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
)

// Key is a key of the repository, as Keys lists it.
type Key struct {
	Role string `json:"role"` // a role, or "pcr PRODUCT"
	ID   string `json:"id"`
	File string `json:"file,omitempty"` // of the private part, if it is here
}

// keyPair is a private key that was found.
type keyPair struct {
	file   string
	signer crypto.Signer
	id     string // TUF key id of an Ed25519 key, fingerprint of a PCR-policy key
}

// Keys lists the keys that are in force, and where their private parts are.
func (r *Repo) Keys() ([]Key, error) {
	here, err := r.found()
	if err != nil {
		return nil, err
	}
	roles, err := r.roleKeys()
	if err != nil {
		return nil, err
	}
	var list []Key
	for _, role := range []string{Root, Targets, Releases, Snapshot, Timestamp} {
		for _, id := range roles[role].KeyIDs {
			list = append(list, Key{Role: role, ID: id, File: here[id].file})
		}
	}
	for _, name := range r.Products() {
		for _, id := range r.set.Products[name].Keys {
			list = append(list, Key{Role: "pcr " + name, ID: id, File: here[id].file})
		}
	}
	return list, nil
}

// makeKey makes an Ed25519 key of a role, or reads it if it is there: what was cut
// short must not leave keys that nobody knows.
func (r *Repo) makeKey(role, label string) (keyPair, error) {
	return r.ensure(role+"-"+label+".pem", func() (crypto.Signer, error) {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	})
}

func (r *Repo) makePolicyKey(product string, n int) (string, error) {
	k, err := r.ensure(fmt.Sprintf("pcr-%s-%d.pem", product, n), func() (crypto.Signer, error) {
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	})
	return k.id, err
}

// ensure reads a key of this name in the folder for new keys, or makes it.
func (r *Repo) ensure(name string, generate func() (crypto.Signer, error)) (keyPair, error) {
	path := filepath.Join(r.keyDir(), name)
	k, err := r.readKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	signer, err := generate()
	if err != nil {
		return keyPair{}, fmt.Errorf("make key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		return keyPair{}, fmt.Errorf("encode key: %w", err)
	}
	if err := r.cfg.FS.MkdirAll(r.keyDir(), 0o700); err != nil {
		return keyPair{}, fmt.Errorf("make key folder: %w", err)
	}
	if err := r.cfg.FS.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return keyPair{}, fmt.Errorf("write key: %w", err)
	}
	return r.readKey(path)
}

// keyDir is the folder that new keys go into.
func (r *Repo) keyDir() string { return r.cfg.Keys[0] }

// readKey refuses a key that others could have read.
func (r *Repo) readKey(path string) (keyPair, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return keyPair{}, fmt.Errorf("read key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return keyPair{}, fmt.Errorf("read key %s: its mode is %04o, it must be 0600", path, mode)
	}
	data, err := r.cfg.FS.ReadFile(path, maxKey)
	if err != nil {
		return keyPair{}, fmt.Errorf("read key: %w", err)
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" || len(rest) > 0 {
		return keyPair{}, fmt.Errorf("read key %s: it is not one PEM block PRIVATE KEY", path)
	}
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return keyPair{}, fmt.Errorf("read key %s: %w", path, err)
	}
	signer, ok := private.(crypto.Signer)
	if !ok {
		return keyPair{}, fmt.Errorf("read key %s: %T does not sign", path, private)
	}
	id, err := keyID(signer.Public())
	if err != nil {
		return keyPair{}, fmt.Errorf("read key %s: %w", path, err)
	}
	return keyPair{file: path, signer: signer, id: id}, nil
}

func keyID(public crypto.PublicKey) (string, error) {
	if _, ok := public.(ed25519.PublicKey); !ok {
		fingerprint, err := tpmpolicy.Fingerprint(public)
		return fingerprint.String(), err
	}
	key, err := metadata.KeyFromPublicKey(public)
	if err != nil {
		return "", err
	}
	return key.ID()
}

// found reads all private keys that are here, by id. A folder may be away.
func (r *Repo) found() (map[string]keyPair, error) {
	all := make(map[string]keyPair)
	for _, dir := range r.cfg.Keys {
		names, err := filepath.Glob(filepath.Join(dir, "*.pem"))
		if err != nil || len(names) > maxKeyFiles {
			return nil, fmt.Errorf("list keys in %s: %d files: %w", dir, len(names), errors.Join(err))
		}
		for _, name := range names {
			k, err := r.readKey(name)
			if err != nil {
				return nil, err
			}
			if _, twice := all[k.id]; !twice {
				all[k.id] = k
			}
		}
	}
	return all, nil
}

// steady makes ECDSA signatures that depend on key and message alone (RFC 6979), so
// that a build that is done again gives the same bytes.
type steady struct{ crypto.Signer }

func (s steady) Sign(random io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	if _, is := s.Signer.(*ecdsa.PrivateKey); is {
		random = nil
	}
	return s.Signer.Sign(random, digest, o)
}

// policySigners returns the PCR-policy keys of a product.
func (r *Repo) policySigners(product string) ([]keyPair, error) {
	ids := r.set.Products[product].Keys
	if len(ids) == 0 {
		return nil, fmt.Errorf("there is no product %q in this repository", product)
	}
	here, err := r.found()
	if err != nil {
		return nil, err
	}
	var list []keyPair
	for _, id := range ids {
		k, ok := here[id]
		if !ok {
			return nil, fmt.Errorf("PCR-policy key %.12s of %s is not in %s", id, product, strings.Join(r.cfg.Keys, ", "))
		}
		list = append(list, k)
	}
	return list, nil
}
