package verifier

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/internal/wire"
)

// maxBundle is the size of a file with maker certificates, in bytes.
const maxBundle = 4 << 20

// LoadRoots reads a folder of maker bundles: every *.pem and *.crt file in it, each
// with any number of certificates in PEM. Each of them is trusted to vouch for
// TPMs; an intermediate may stand there without its root.
func LoadRoots(dir string) (*x509.CertPool, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("load TPM makers: %w", err)
	}
	pool, count := x509.NewCertPool(), 0
	for _, e := range entries {
		if ext := strings.ToLower(filepath.Ext(e.Name())); e.IsDir() || ext != ".pem" && ext != ".crt" {
			continue
		}
		n, err := addBundle(pool, filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("load TPM makers: %w", err)
		}
		count += n
	}
	if count == 0 {
		return nil, fmt.Errorf("load TPM makers: no certificate in any .pem or .crt file of %s", dir)
	}
	return pool, nil
}

func addBundle(pool *x509.CertPool, path string) (int, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	if info.Size() > maxBundle {
		return 0, fmt.Errorf("%s is larger than %d bytes", path, maxBundle)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n := 0
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return 0, fmt.Errorf("%s, certificate %d: %w", path, n+1, err)
		}
		pool.AddCert(cert)
		n++
	}
	return n, nil
}

// VerifyEK checks that a TPM maker vouches for an endorsement key: cert is DER, as
// it lay in NV, padded or not; chain are DER intermediates from the TPM, which
// prove nothing by themselves; ekPublic is TPMT_PUBLIC. The profile is the TCG EK
// Credential Profile 2.5, section 3.
func VerifyEK(cert []byte, chain [][]byte, roots *x509.CertPool, ekPublic []byte, now time.Time) error {
	leaf, err := parseEKCertificate(cert)
	if err != nil {
		return err
	}
	ek, err := parseEK(ekPublic)
	if err != nil {
		return err
	}
	if err := matchEK(leaf, ek); err != nil {
		return err
	}
	if err := checkEKProfile(leaf); err != nil {
		return err
	}
	intermediates := x509.NewCertPool()
	for _, der := range chain[:min(len(chain), wire.MaxCertificates)] {
		if c, err := parsePadded(der); err == nil { // NV may hold anything there
			intermediates.AddCert(c)
		}
	}
	// EKU is checked above: makers' intermediates carry sets of their own.
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fmt.Errorf("verify EK certificate: %w", err)
	}
	return nil
}

// parsePadded parses a certificate from an NV index, which makers fill up with
// 0x00 or 0xff.
func parsePadded(der []byte) (*x509.Certificate, error) {
	if len(der) > wire.MaxCertificate {
		return nil, fmt.Errorf("certificate of %d bytes, at most %d", len(der), wire.MaxCertificate)
	}
	var outer asn1.RawValue
	rest, err := asn1.Unmarshal(der, &outer)
	if err != nil {
		return nil, fmt.Errorf("certificate is not DER: %w", err)
	}
	if len(bytes.Trim(rest, "\x00")) > 0 && bytes.Count(rest, []byte{0xff}) != len(rest) {
		return nil, errors.New("certificate has other bytes than padding behind it")
	}
	return x509.ParseCertificate(outer.FullBytes)
}

func parseEKCertificate(der []byte) (*x509.Certificate, error) {
	leaf, err := parsePadded(der)
	if err != nil {
		return nil, fmt.Errorf("parse EK certificate: %w", err)
	}
	return leaf, nil
}

// matchEK compares the certified key with the TPM's.
func matchEK(leaf *x509.Certificate, ek *tpm2.TPMTPublic) error {
	inside, err := publicKey(ek)
	if err != nil {
		return fmt.Errorf("endorsement key: %w", err)
	}
	certified := leaf.PublicKey
	if certified == nil {
		if certified, err = oaepKey(leaf.RawSubjectPublicKeyInfo); err != nil {
			return fmt.Errorf("parse EK certificate: %w", err)
		}
	}
	k, ok := certified.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !k.Equal(inside) {
		return errors.New("the EK certificate is for another key than this TPM's")
	}
	return nil
}

// oaepKey reads a key that is marked id-RSAES-OAEP (RFC 4055), as some makers do;
// crypto/x509 leaves it unparsed.
func oaepKey(spki []byte) (crypto.PublicKey, error) {
	var info struct {
		Algorithm struct {
			OID        asn1.ObjectIdentifier
			Parameters asn1.RawValue `asn1:"optional"`
		}
		Key asn1.BitString
	}
	if _, err := asn1.Unmarshal(spki, &info); err != nil {
		return nil, err
	}
	if !info.Algorithm.OID.Equal(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 7}) {
		return nil, fmt.Errorf("key algorithm %s is not accepted", info.Algorithm.OID)
	}
	return x509.ParsePKCS1PublicKey(info.Key.RightAlign())
}

// checkEKProfile refuses certificates that a maker's CA issued for something else,
// and settles the one critical extension that crypto/x509 can't read: a subject
// alternative name that is a directory name with the TPM's make (section 3.2.9).
func checkEKProfile(leaf *x509.Certificate) error {
	if leaf.IsCA {
		return errors.New("the EK certificate is a CA's")
	}
	usage := asn1.ObjectIdentifier{2, 23, 133, 8, 1} // tcg-kp-EKCertificate, section 3.2.16
	isEK := func(o asn1.ObjectIdentifier) bool { return o.Equal(usage) }
	if (len(leaf.ExtKeyUsage) > 0 || len(leaf.UnknownExtKeyUsage) > 0) && !slices.ContainsFunc(leaf.UnknownExtKeyUsage, isEK) {
		return errors.New("the EK certificate is for another purpose (extended key usage)")
	}
	san := asn1.ObjectIdentifier{2, 5, 29, 17}
	leaf.UnhandledCriticalExtensions = slices.DeleteFunc(leaf.UnhandledCriticalExtensions, func(o asn1.ObjectIdentifier) bool { return o.Equal(san) })
	return nil
}
