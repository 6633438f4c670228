package tpmpolicy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
)

// Parts of a public area (TPM 2.0 Part 2, 12.2).
const (
	algRSA    = 0x0001
	algECC    = 0x0023
	algNull   = 0x0010
	curveP256 = 0x0003
	// userWithAuth, decrypt and sign: what systemd gives an external key, so that
	// one key can serve systemd-cryptsetup too.
	keyAttributes = 1<<6 | 1<<17 | 1<<18
)

// PublicArea is the TPMT_PUBLIC by which a chip loads an approving key: P-256 or
// RSA 2048 with exponent 65537, Name algorithm SHA-256, no scheme.
func PublicArea(key crypto.PublicKey) ([]byte, error) {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		if key == nil || key.Curve != elliptic.P256() {
			return nil, errors.New("read policy key: only P-256 and RSA 2048 are used")
		}
		point, err := key.Bytes() // on the curve?
		if err != nil {
			return nil, fmt.Errorf("read policy key: %w", err)
		}
		area := areaHead(algECC)
		area = words(area, algNull, algNull, curveP256, algNull)
		return sized(sized(area, point[1:33]), point[33:]), nil
	case *rsa.PublicKey:
		if key == nil || key.N == nil || key.N.BitLen() != 2048 || key.E != 65537 {
			return nil, errors.New("read policy key: only P-256 and RSA 2048 with exponent 65537 are used")
		}
		area := words(areaHead(algRSA), algNull, algNull, 2048)
		area = binary.BigEndian.AppendUint32(area, 0) // the default exponent
		return sized(area, key.N.Bytes()), nil
	}
	return nil, fmt.Errorf("read policy key: %T, only P-256 and RSA 2048 are used", key)
}

func areaHead(kind uint16) []byte {
	area := words(nil, kind, algSHA256)
	area = binary.BigEndian.AppendUint32(area, keyAttributes)
	return sized(area, nil) // no policy
}

func words(b []byte, list ...uint16) []byte {
	for _, w := range list {
		b = binary.BigEndian.AppendUint16(b, w)
	}
	return b
}

// sized appends a TPM2B.
func sized(b, content []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(content))), content...)
}

// Name is the Name of an area (TPM 2.0 Part 1, 16): SHA-256 and its identifier.
func Name(area []byte) []byte {
	sum := sha256.Sum256(area)
	return append(words(nil, algSHA256), sum[:]...)
}

// KeyName is the Name of an approving key.
func KeyName(key crypto.PublicKey) ([]byte, error) {
	area, err := PublicArea(key)
	if err != nil {
		return nil, err
	}
	return Name(area), nil
}

// Fingerprint is "pkfp" in systemd's file: the SHA-256 of RSAPublicKey (RFC 8017,
// A.1.1) or of the uncompressed point, not of SubjectPublicKeyInfo.
func Fingerprint(key crypto.PublicKey) (Digest, error) {
	if _, err := PublicArea(key); err != nil {
		return Digest{}, err
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		return sha256.Sum256(x509.MarshalPKCS1PublicKey(key)), nil
	case *ecdsa.PublicKey:
		point, err := key.Bytes()
		return sha256.Sum256(point), err
	}
	return Digest{}, fmt.Errorf("read policy key: %T", key)
}

// MarshalKey encodes an approving key as SubjectPublicKeyInfo.
func MarshalKey(key crypto.PublicKey) ([]byte, error) {
	if _, err := PublicArea(key); err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode policy key: %w", err)
	}
	return der, nil
}

// ParseKey reads what MarshalKey wrote, and no other encoding of it: the
// fingerprint must be the same for all.
func ParseKey(der []byte) (crypto.PublicKey, error) {
	if len(der) > MaxKey {
		return nil, fmt.Errorf("read policy key: %d bytes, at most %d are allowed", len(der), MaxKey)
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("read policy key: %w", err)
	}
	again, err := MarshalKey(key)
	if err != nil {
		return nil, err
	}
	if string(again) != string(der) {
		return nil, errors.New("read policy key: not in the usual encoding")
	}
	return key, nil
}
