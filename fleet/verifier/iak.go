package verifier

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gatewarden/gatewarden/internal/wire"
)

// VerifyIAK checks that a machine's maker vouches for the TPM that holds an AK: an
// attestation key that the maker certified as restricted states that the AK (ak is
// its TPMT_PUBLIC) is in the same TPM. An IDevID alone could not: it signs whatever
// software asks it to. The result names the machine: SHA-256 (hex) of the IAK's
// SubjectPublicKeyInfo. Source: TCG, TPM 2.0 Keys for Device Identity and Attestation
// 1.0, 8.2 (policy identifiers) and 6 (what a verifier must check).
func VerifyIAK(iak wire.IAK, makers *x509.CertPool, ak, qualifying []byte, now time.Time) (string, error) {
	leaf, err := parsePadded(iak.Certificate)
	if err != nil {
		return "", fmt.Errorf("parse IAK certificate: %w", err)
	}
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return "", errors.New("the IAK is not ECDSA P-256")
	}
	if err := checkIAKProfile(leaf); err != nil {
		return "", err
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: makers, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return "", fmt.Errorf("verify IAK certificate: %w", err)
	}
	if err := verifySignature(key, iak.Certify, iak.Signature); err != nil {
		return "", fmt.Errorf("statement of the IAK: %w", err)
	}
	certified, err := certifiedName(iak.Certify, qualifying)
	if err != nil {
		return "", fmt.Errorf("statement of the IAK: %w", err)
	}
	if name, err := Name(ak); err != nil || !bytes.Equal(name, certified) {
		return "", errors.New("the IAK certified another key than this AK")
	}
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:]), nil
}

// checkIAKProfile refuses certificates for something else, and settles the subject
// alternative name, which holds a hardware module that crypto/x509 can't read.
func checkIAKProfile(leaf *x509.Certificate) error {
	if leaf.IsCA || leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return errors.New("the IAK certificate is not of a key that signs")
	}
	restricted := asn1.ObjectIdentifier{2, 23, 133, 11, 1, 3} // tcg-cap-verifiedTPMRestricted
	if !slices.ContainsFunc(leaf.PolicyIdentifiers, restricted.Equal) {
		return errors.New("the maker did not verify that the IAK is restricted (2.23.133.11.1.3)")
	}
	san := asn1.ObjectIdentifier{2, 5, 29, 17}
	leaf.UnhandledCriticalExtensions = slices.DeleteFunc(leaf.UnhandledCriticalExtensions, san.Equal)
	return nil
}
