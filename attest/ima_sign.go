package attest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A signature of a file, as the kernel keeps it in security.ima: a byte for its
// kind, then signature_v2_hdr (Linux, security/integrity/integrity.h).
const (
	xattrSignature = 3 // EVM_IMA_XATTR_DIGSIG, version 2: over the file's digest
	xattrVerity    = 6 // IMA_VERITY_DIGSIG, version 3: over kind, hash and digest of fs-verity

	shortID = 4 // bytes of the end of a key's id, by which signatures call it
)

// fileKey is a key that signs files, with the names that signatures call it by.
type fileKey struct {
	public crypto.PublicKey // *ecdsa.PublicKey or *rsa.PublicKey
	id     []byte           // subject key identifier of the certificate, else SHA-1 over the bare key
	issuer []byte           // of the certificate, with its serial number: IssuerAndSerialNumber in DER; nil for a bare key
}

// readFileKey reads PEM of one public key or certificate.
func readFileKey(text string) (fileKey, error) {
	var key fileKey
	block, rest := pem.Decode([]byte(text))
	if block == nil || len(bytes.TrimSpace(rest)) > 0 || !strings.HasPrefix(strings.TrimSpace(text), "-----BEGIN ") {
		return key, errors.New("it is not one PEM of PUBLIC KEY or CERTIFICATE")
	}
	spki := block.Bytes
	switch block.Type {
	case "CERTIFICATE":
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return key, err
		}
		spki, key.id = certificate.RawSubjectPublicKeyInfo, certificate.SubjectKeyId
		if key.issuer, err = asn1.Marshal(issuerAndSerial{asn1.RawValue{FullBytes: certificate.RawIssuer}, certificate.SerialNumber}); err != nil {
			return key, err
		}
	case "PUBLIC KEY":
	default:
		return key, fmt.Errorf("PEM of %.40q, not PUBLIC KEY or CERTIFICATE", block.Type)
	}
	public, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return key, err
	}
	key.public = public
	if len(key.id) < shortID {
		var info struct {
			Algorithm pkix.AlgorithmIdentifier
			Key       asn1.BitString
		}
		if _, err := asn1.Unmarshal(spki, &info); err != nil {
			return key, err
		}
		sum := sha1.Sum(info.Key.Bytes)
		key.id = sum[:]
	}
	return key, checkFileKey(public)
}

func checkFileKey(public any) error {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return fmt.Errorf("curve %s, only P-256 and P-384 are accepted", k.Curve.Params().Name)
		}
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 4096 {
			return fmt.Errorf("RSA of %d bits, 2048 to 4096 are accepted", n)
		}
	default:
		return fmt.Errorf("key of type %T", public)
	}
	return nil
}

// verifyFile checks the signature of an entry as judge says it.
func (r *imaReference) verifyFile(e *imaEntry) (rule, why string) {
	c := &cursor{data: e.signature, order: binary.BigEndian}
	kind, version, algorithm := c.u8("kind"), c.u8("version"), c.u8("hash")
	id := c.take(shortID, "key id")
	signature := c.take(uint64(c.u16("length")), "signature")
	if err := c.end("signature"); err != nil {
		return ruleIMASignatures, "its signature can't be read: " + err.Error()
	}
	hash := fileHash(algorithm)
	if hash == 0 {
		return ruleIMAFiles, fmt.Sprintf("its signature uses hash %d, not SHA-256, SHA-384 or SHA-512", algorithm)
	}
	digest, err := e.signed(kind, version, hash)
	if err != nil {
		return ruleIMAFiles, err.Error()
	}
	known := false
	for _, key := range r.keys {
		if !bytes.HasSuffix(key.id, id) {
			continue
		}
		if known = true; r.verifies(key, hash, digest, signature) {
			return "", ""
		}
	}
	if !known {
		return ruleIMAFiles, fmt.Sprintf("it is signed by key %x, which is not trusted", id)
	}
	return ruleIMASignatures, "its signature does not verify"
}

// signed is the digest that a signature of this kind is over.
func (e *imaEntry) signed(kind, version uint8, hash crypto.Hash) ([]byte, error) {
	switch verity := string(e.kind) == "verity"; {
	case kind == xattrSignature && version == 2 && !verity:
		if len(e.digest) != hash.Size() {
			return nil, errors.New("its signature is over another hash than was measured")
		}
		return e.digest, nil
	case kind == xattrVerity && version == 3 && verity:
		h := hash.New()
		h.Write([]byte{xattrVerity, kernelHash(string(e.algorithm))})
		h.Write(e.digest)
		return h.Sum(nil), nil
	}
	return nil, fmt.Errorf("its signature is of kind %d, version %d, which is not read", kind, version)
}

// verifies checks a signature over digest. Good ones are remembered: all gateways of a
// fleet run the same files.
func (r *imaReference) verifies(key fileKey, hash crypto.Hash, digest, signature []byte) bool {
	known := sha256.Sum256(slices.Concat(key.id, []byte{byte(len(digest))}, digest, signature))
	if r.knows(known) {
		return true
	}
	if !verifyDigest(key.public, hash, digest, signature) {
		return false
	}
	r.remember(known)
	return true
}

func verifyDigest(key crypto.PublicKey, hash crypto.Hash, digest, signature []byte) bool {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, digest, signature)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, hash, digest, signature) == nil
	}
	return false
}

// fileHash reads the kernel's hash_algo (Linux, include/uapi/linux/hash_info.h).
func fileHash(algorithm uint8) crypto.Hash {
	switch algorithm {
	case 4:
		return crypto.SHA256
	case 5:
		return crypto.SHA384
	case 6:
		return crypto.SHA512
	}
	return 0
}

func kernelHash(name string) uint8 {
	switch name {
	case "sha256":
		return 4
	case "sha384":
		return 5
	case "sha512":
		return 6
	}
	return 0
}

func (r *imaReference) knows(signature Digest) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.good[signature]
	return ok
}

func (r *imaReference) remember(signature Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.good) >= maxFileSums {
		clear(r.good)
	}
	r.good[signature] = struct{}{}
}
