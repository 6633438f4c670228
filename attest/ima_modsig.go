package attest

import (
	"bytes"
	"crypto"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
)

// A signature that is appended to a file, as the kernel's scripts/sign-file makes it
// for modules: CMS SignedData (RFC 5652, section 5.1) without content and without
// signed attributes, so that it is over the file itself. The kernel refuses others
// (crypto/asymmetric_keys/pkcs7_verify.c).
type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content signedData `asn1:"explicit,tag:0"`
}

type signedData struct {
	Version      int
	Algorithms   asn1.RawValue
	Content      encapsulated
	Certificates asn1.RawValue `asn1:"optional,tag:0"`
	Lists        asn1.RawValue `asn1:"optional,tag:1"`
	Signers      []signerInfo  `asn1:"set"`
}

type encapsulated struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"optional,tag:0"`
}

type signerInfo struct {
	Version    int
	Signer     asn1.RawValue // issuerAndSerial, or [0] a key id
	Hash       pkix.AlgorithmIdentifier
	Attributes asn1.RawValue `asn1:"optional,tag:0"`
	Algorithm  pkix.AlgorithmIdentifier
	Signature  []byte
	Unsigned   asn1.RawValue `asn1:"optional,tag:1"`
}

type issuerAndSerial struct {
	Issuer asn1.RawValue
	Serial *big.Int
}

// verifyModule checks the appended signature of an entry as judge says it.
func (r *imaReference) verifyModule(e *imaEntry) (rule, why string) {
	signer, err := readModsig(e.modsig)
	if err != nil {
		return ruleIMASignatures, "its appended signature can't be read: " + err.Error()
	}
	name, digest, _ := bytes.Cut(e.modDigest, []byte(":\x00"))
	hash := oidHash(signer.Hash.Algorithm)
	if hash == 0 {
		return ruleIMAFiles, fmt.Sprintf("its appended signature uses hash %s, not SHA-256, SHA-384 or SHA-512", signer.Hash.Algorithm)
	}
	if fileHash(kernelHash(string(name))) != hash || len(digest) != hash.Size() {
		return ruleIMAFiles, "its appended signature is over another hash than was measured"
	}
	known := false
	for _, key := range r.keys {
		if !key.signs(signer.Signer) {
			continue
		}
		if known = true; r.verifies(key, hash, digest, signer.Signature) {
			return "", ""
		}
	}
	if !known {
		return ruleIMAFiles, "its appended signature is by a key that is not trusted"
	}
	return ruleIMASignatures, "its appended signature does not verify"
}

// readModsig returns the one signer.
func readModsig(data []byte) (*signerInfo, error) {
	if len(data) > maxModsig {
		return nil, fmt.Errorf("%d bytes, at most %d are allowed", len(data), maxModsig)
	}
	var message contentInfo
	rest, err := asn1.Unmarshal(data, &message)
	switch {
	case err != nil:
		return nil, err
	case len(rest) > 0:
		return nil, fmt.Errorf("%d bytes behind it", len(rest))
	case !message.Type.Equal(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}):
		return nil, fmt.Errorf("it is %s, not signed data", message.Type)
	case !message.Content.Content.Type.Equal(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}):
		return nil, fmt.Errorf("it signs %s, not data", message.Content.Content.Type)
	case len(message.Content.Content.Content.FullBytes) > 0:
		return nil, errors.New("it has content of its own")
	case len(message.Content.Signers) != 1:
		return nil, fmt.Errorf("%d signers, not one", len(message.Content.Signers))
	}
	signer := &message.Content.Signers[0]
	if len(signer.Attributes.FullBytes) > 0 {
		return nil, errors.New("it is over attributes, not over the file")
	}
	return signer, nil
}

// signs reports whether signer is a name of the key.
func (k *fileKey) signs(signer asn1.RawValue) bool {
	if signer.Class == asn1.ClassContextSpecific && signer.Tag == 0 {
		return bytes.Equal(signer.Bytes, k.id)
	}
	return k.issuer != nil && bytes.Equal(signer.FullBytes, k.issuer)
}

// oidHash reads an algorithm of NIST (2.16.840.1.101.3.4.2); 0 for others.
func oidHash(oid asn1.ObjectIdentifier) crypto.Hash {
	for i, hash := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		if oid.Equal(asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, i + 1}) {
			return hash
		}
	}
	return 0
}
