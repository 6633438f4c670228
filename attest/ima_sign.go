package attest

import (
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
)

// A signature of a file, as the kernel keeps it in security.ima: a byte for its
// kind, then signature_v2_hdr (Linux, security/integrity/integrity.h).
const (
	xattrSignature = 3 // EVM_IMA_XATTR_DIGSIG, version 2: over the file's digest
	xattrVerity    = 6 // IMA_VERITY_DIGSIG, version 3: over kind, hash and digest of fs-verity
)

// fileKey is a *ecdsa.PublicKey or *rsa.PublicKey.
type fileKey crypto.PublicKey

// readKeys reads PEM of public keys and certificates.
func (r *IMAReference) readKeys(data []byte) error {
	count := 0
	for len(data) > 0 {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		if count++; count > maxIMAKeys {
			return fmt.Errorf("more than %d", maxIMAKeys)
		}
		id, key, err := readFileKey(block)
		if err != nil {
			return fmt.Errorf("key %d: %w", count, err)
		}
		r.keys[id] = append(r.keys[id], key)
	}
	for _, c := range data {
		if c != '\n' && c != '\r' && c != ' ' {
			return errors.New("text that is not PEM")
		}
	}
	return nil
}

// readFileKey returns a key and the name by which signatures call it: the end of the
// certificate's subject key identifier, or of SHA-1 over the bare key.
func readFileKey(block *pem.Block) (id [4]byte, key fileKey, err error) {
	spki, identifier := block.Bytes, []byte(nil)
	switch block.Type {
	case "CERTIFICATE":
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return id, nil, err
		}
		spki, identifier = certificate.RawSubjectPublicKeyInfo, certificate.SubjectKeyId
	case "PUBLIC KEY":
	default:
		return id, nil, fmt.Errorf("PEM of %.40q, not PUBLIC KEY or CERTIFICATE", block.Type)
	}
	public, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return id, nil, err
	}
	if err := checkFileKey(public); err != nil {
		return id, nil, err
	}
	if len(identifier) < len(id) {
		var info struct {
			Algorithm pkix.AlgorithmIdentifier
			Key       asn1.BitString
		}
		if _, err := asn1.Unmarshal(spki, &info); err != nil {
			return id, nil, err
		}
		sum := sha1.Sum(info.Key.Bytes)
		identifier = sum[:]
	}
	copy(id[:], identifier[len(identifier)-len(id):])
	return id, public, nil
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

// verifyFile checks the signature of an entry. Good ones are remembered: all
// gateways of a fleet run the same files.
func (r *IMAReference) verifyFile(e *imaEntry) error {
	c := &cursor{data: e.signature, order: binary.BigEndian}
	kind, version, algorithm := c.u8("kind"), c.u8("version"), c.u8("hash")
	id := c.take(4, "key id")
	signature := c.take(uint64(c.u16("length")), "signature")
	if err := c.end("signature"); err != nil {
		return fmt.Errorf("its signature can't be read: %w", err)
	}
	hash := fileHash(algorithm)
	if hash == 0 {
		return fmt.Errorf("its signature uses hash %d, not SHA-256, SHA-384 or SHA-512", algorithm)
	}
	digest, err := e.signed(kind, version, hash)
	if err != nil {
		return err
	}
	keys := r.keys[[4]byte(id)]
	if len(keys) == 0 {
		return fmt.Errorf("it is signed by key %x, which is not trusted", id)
	}
	known := sha256.Sum256(append(append(append([]byte{}, id...), digest...), signature...))
	if r.knows(known) {
		return nil
	}
	for _, key := range keys {
		if verifyDigest(key, hash, digest, signature) {
			r.remember(known)
			return nil
		}
	}
	return errors.New("its signature does not verify")
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

func verifyDigest(key fileKey, hash crypto.Hash, digest, signature []byte) bool {
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
	}
	return 6
}

func (r *IMAReference) knows(signature Digest) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.good[signature]
	return ok
}

func (r *IMAReference) remember(signature Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.good) >= maxFileSums {
		clear(r.good)
	}
	r.good[signature] = struct{}{}
}
