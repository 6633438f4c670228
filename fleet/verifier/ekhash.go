package verifier

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
)

// EKHash is the SHA-256 (hex) of an endorsement key's SubjectPublicKeyInfo, by
// which people name one before they have seen its device; public is TPMT_PUBLIC.
func EKHash(public []byte) (string, error) {
	p, err := parsePublic(public)
	if err != nil {
		return "", err
	}
	key, err := publicKey(p)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("encode endorsement key: %w", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// EKCertificate returns what names the key of an EK certificate, padded or not:
// EKHash of its key, and its serial number in lower-case hex.
func EKCertificate(der []byte) (hash, serial string, err error) {
	leaf, err := parseEKCertificate(der)
	if err != nil {
		return "", "", err
	}
	key := leaf.PublicKey
	if key == nil {
		if key, err = oaepKey(leaf.RawSubjectPublicKeyInfo); err != nil {
			return "", "", fmt.Errorf("parse EK certificate: %w", err)
		}
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", "", fmt.Errorf("encode endorsement key: %w", err)
	}
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:]), leaf.SerialNumber.Text(16), nil
}

// Vouched says whether a known maker signed d's EK certificate. It asks again for
// a device whose maker was not known when it enrolled. Genuine of a device says, too,
// whether the machine's maker vouched for its TPM.
func Vouched(d registry.Device, makers *x509.CertPool, now time.Time) bool {
	return d.EKVerified || makers != nil && len(d.EKCertificate) > 0 && VerifyEK(d.EKCertificate, nil, makers, d.EKPublic, now) == nil
}
