package sshsig

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

// Names of the key types that are accepted.
const (
	typeEd25519   = "ssh-ed25519"
	typeP256      = "ecdsa-sha2-nistp256"
	typeP384      = "ecdsa-sha2-nistp384"
	typeRSA       = "ssh-rsa"
	typeSKEd25519 = "sk-ssh-ed25519@openssh.com"
	typeSKP256    = "sk-ecdsa-sha2-nistp256@openssh.com"
)

const (
	minRSABits = 2048
	maxRSABits = 8192
	maxKeyBlob = 2 << 10 // bytes; RSA 8192 takes 1,047
)

// Key is an SSH public key. The zero Key verifies nothing.
type Key struct {
	kind        string
	blob        []byte // RFC 4253, section 6.6
	application string // of a FIDO2 key
	ed25519     ed25519.PublicKey
	ecdsa       *ecdsa.PublicKey
	rsa         *rsa.PublicKey
}

// Type returns the key type's name, such as "ssh-ed25519".
func (k Key) Type() string { return k.kind }

// Equal says whether both are the same key.
func (k Key) Equal(other Key) bool { return len(k.blob) > 0 && string(k.blob) == string(other.blob) }

// Fingerprint returns the form that ssh-keygen -l prints: "SHA256:" and base64.
func (k Key) Fingerprint() string {
	sum := sha256.Sum256(k.blob)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// String returns the key as a line of authorized_keys, without comment.
func (k Key) String() string { return k.kind + " " + base64.StdEncoding.EncodeToString(k.blob) }

// ParseAuthorizedKey reads a line of authorized_keys or a .pub file: type, base64
// and an optional comment. Options in front of the type are refused.
func ParseAuthorizedKey(line string) (Key, error) {
	fields := strings.Fields(line)
	if len(fields) < 2 || strings.ContainsAny(line, "\r\n") {
		return Key{}, errors.New("key is not of the form: type base64 comment")
	}
	data, err := base64.StdEncoding.Strict().DecodeString(fields[1])
	if err != nil {
		return Key{}, fmt.Errorf("decode base64 of key: %w", err)
	}
	key, err := parseKey(data)
	if err != nil {
		return Key{}, err
	}
	if key.kind != fields[0] {
		return Key{}, fmt.Errorf("key says type %q outside and %q inside", fields[0], key.kind)
	}
	return key, nil
}

func parseKey(data []byte) (Key, error) {
	if len(data) > maxKeyBlob {
		return Key{}, fmt.Errorf("key is longer than %d bytes", maxKeyBlob)
	}
	r := reader{rest: data}
	k := Key{kind: string(r.string()), blob: data}
	var err error
	switch k.kind {
	case typeEd25519, typeSKEd25519:
		k.ed25519 = r.string()
		if len(k.ed25519) != ed25519.PublicKeySize {
			err = errors.New("ed25519 key is not 32 bytes long")
		}
	case typeP256, typeSKP256:
		k.ecdsa, err = readECDSA(&r, "nistp256", elliptic.P256())
	case typeP384:
		k.ecdsa, err = readECDSA(&r, "nistp384", elliptic.P384())
	case typeRSA:
		k.rsa, err = readRSA(&r)
	default:
		return Key{}, fmt.Errorf("key type %.40q is not one of ed25519, ECDSA P-256, P-384, RSA, or FIDO2 of the first two", k.kind)
	}
	if k.kind == typeSKEd25519 || k.kind == typeSKP256 {
		k.application = string(r.string())
	}
	if bad := r.finish(); bad != nil {
		return Key{}, fmt.Errorf("key of type %s: %w", k.kind, bad)
	}
	if err != nil {
		return Key{}, err
	}
	return k, nil
}

// readECDSA reads RFC 5656, section 3.1; the point must be on its curve.
func readECDSA(r *reader, name string, curve elliptic.Curve) (*ecdsa.PublicKey, error) {
	if got := string(r.string()); got != name {
		return nil, fmt.Errorf("key is on curve %.20q, not %s", got, name)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(curve, r.string())
	if err != nil {
		return nil, fmt.Errorf("parse point of key: %w", err)
	}
	return key, nil
}

func readRSA(r *reader) (*rsa.PublicKey, error) {
	e, n := r.mpint(), r.mpint()
	if bits := n.BitLen(); bits < minRSABits || bits > maxRSABits {
		return nil, fmt.Errorf("RSA key has %d bits, not %d to %d", bits, minRSABits, maxRSABits)
	}
	if e.Cmp(big.NewInt(3)) < 0 || e.BitLen() > 31 || e.Bit(0) == 0 {
		return nil, errors.New("RSA key has an unusual exponent")
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}
