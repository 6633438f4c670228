package identity

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// Files in the identity folder. Key and certificate share one file, so that no
// power cut can leave a pair that does not match.
const (
	ekFile      = "ek.json"         // which endorsement key was chosen
	akFile      = "ak.pem"          // attestation key, TSS2 PRIVATE KEY
	currentFile = "operational.pem" // operational key, then its certificate chain
	nextFile    = "next.pem"        // the same of a renewal under way; the chain may be missing
)

const (
	maxKeyFile  = 16 << 10
	maxPairFile = maxKeyFile + wire.MaxCertificates*2*wire.MaxCertificate
)

type store struct {
	fs      *fsx.FS
	dir     string
	private bool // keys are in the clear: their files are nobody else's
}

// ekRecord fixes the choice of endorsement key for the enrolment's life.
type ekRecord struct {
	Version int    `json:"v"` // 1
	Kind    string `json:"kind"`
	Name    []byte `json:"name"`
	// Sum is SHA-256 of kind and name: a record that a bad disk changed would be
	// another device's.
	Sum []byte `json:"sum"`
}

func (r ekRecord) sum() []byte {
	sum := sha256.Sum256(append([]byte(r.Kind), r.Name...))
	return sum[:]
}

// pair is the content of currentFile or nextFile.
type pair struct {
	key   []byte // as Key.PEM made it
	chain []*x509.Certificate
}

func (s store) path(name string) string { return filepath.Join(s.dir, name) }

// readEK returns nil if there is none or it is damaged: the choice is repeatable.
func (s store) readEK() (*ekRecord, error) {
	var r ekRecord
	err := s.fs.ReadJSON(s.path(ekFile), maxKeyFile, &r)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fsx.ErrDamaged) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read endorsement key record: %w", err)
	}
	if r.Version != 1 || r.Kind == "" || len(r.Name) == 0 || !bytes.Equal(r.Sum, r.sum()) {
		return nil, nil
	}
	return &r, nil
}

func (s store) writeEK(r ekRecord) error {
	r.Sum = r.sum()
	return s.fs.WriteJSON(s.path(ekFile), r, 0o600)
}

func (s store) readAK() ([]byte, error) {
	data, err := s.fs.ReadFile(s.path(akFile), maxKeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

func (s store) writeAK(data []byte) error { return s.fs.WriteFile(s.path(akFile), data, 0o600) }

// readKey reads a file with a key in it.
func (s store) readKey(name string, limit int64) ([]byte, error) {
	if s.private {
		for _, path := range []string{s.dir, s.path(name)} {
			if err := checkPrivate(path); err != nil {
				return nil, err
			}
		}
	}
	return s.fs.ReadFile(s.path(name), limit)
}

// readPair returns an empty pair if there is no such file.
func (s store) readPair(name string) (pair, error) {
	data, err := s.readKey(name, maxPairFile)
	if errors.Is(err, fs.ErrNotExist) {
		return pair{}, nil
	}
	if err != nil {
		return pair{}, err
	}
	p, err := parsePair(data)
	if err != nil {
		return pair{}, fmt.Errorf("read %s: %w", name, err)
	}
	return p, nil
}

func parsePair(data []byte) (pair, error) {
	at := bytes.Index(data, []byte("-----BEGIN CERTIFICATE-----"))
	if at < 0 {
		return pair{key: data}, nil
	}
	p := pair{key: data[:at]}
	for block, rest := pem.Decode(data[at:]); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return pair{}, fmt.Errorf("parse certificate: %w", err)
		}
		p.chain = append(p.chain, cert)
	}
	return p, nil
}

func (p pair) encode() []byte {
	data := append([]byte(nil), p.key...)
	for _, cert := range p.chain {
		data = append(data, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	return data
}

func (s store) writePair(name string, p pair) error {
	return s.fs.WriteFile(s.path(name), p.encode(), 0o600)
}

// forgetNext drops the leftovers of a renewal.
func (s store) forgetNext() error {
	err := s.fs.Remove(s.path(nextFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
