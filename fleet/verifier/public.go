package verifier

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// maxPublic is the longest TPMT_PUBLIC that is looked at, in bytes: RSA 4096 with
// a SHA-512 policy takes less.
const maxPublic = 1024

// parsePublic decodes a TPMT_PUBLIC (TPM 2.0 Library, part 2, 12.2.4) of an RSA or
// ECC key. Exactly one encoding of it is accepted, because its hash is a name.
func parsePublic(raw []byte) (*tpm2.TPMTPublic, error) {
	if len(raw) < 2 || len(raw) > maxPublic {
		return nil, fmt.Errorf("public area of %d bytes", len(raw))
	}
	switch alg := tpm2.TPMAlgID(binary.BigEndian.Uint16(raw)); alg {
	case tpm2.TPMAlgRSA, tpm2.TPMAlgECC:
	default:
		return nil, fmt.Errorf("public area of type 0x%04x, want RSA or ECC", uint16(alg))
	}
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](raw)
	if err != nil {
		return nil, fmt.Errorf("decode public area: %w", err)
	}
	if !bytes.Equal(tpm2.Marshal(public), raw) {
		return nil, errors.New("public area is not in its canonical form")
	}
	return public, nil
}

// Name returns the TPM name of a TPMT_PUBLIC: nameAlg || H(public), with SHA-256,
// SHA-384 or SHA-512 (part 1, 16).
func Name(public []byte) ([]byte, error) {
	p, err := parsePublic(public)
	if err != nil {
		return nil, err
	}
	name := binary.BigEndian.AppendUint16(nil, uint16(p.NameAlg))
	switch p.NameAlg {
	case tpm2.TPMAlgSHA256:
		sum := sha256.Sum256(public)
		return append(name, sum[:]...), nil
	case tpm2.TPMAlgSHA384:
		sum := sha512.Sum384(public)
		return append(name, sum[:]...), nil
	case tpm2.TPMAlgSHA512:
		sum := sha512.Sum512(public)
		return append(name, sum[:]...), nil
	}
	return nil, fmt.Errorf("name algorithm 0x%04x is not accepted", uint16(p.NameAlg))
}

// publicKey returns the key inside, *ecdsa.PublicKey or *rsa.PublicKey; a point
// that is not on its curve is refused.
func publicKey(p *tpm2.TPMTPublic) (crypto.PublicKey, error) {
	if p.Type == tpm2.TPMAlgRSA {
		parms, err := p.Parameters.RSADetail()
		if err != nil {
			return nil, fmt.Errorf("decode RSA parameters: %w", err)
		}
		n, err := p.Unique.RSA()
		if err != nil {
			return nil, fmt.Errorf("decode RSA modulus: %w", err)
		}
		return tpm2.RSAPub(parms, n)
	}
	parms, err := p.Parameters.ECCDetail()
	if err != nil {
		return nil, fmt.Errorf("decode ECC parameters: %w", err)
	}
	point, err := p.Unique.ECC()
	if err != nil {
		return nil, fmt.Errorf("decode ECC point: %w", err)
	}
	key, err := tpm2.ECDSAPub(parms, point)
	if err != nil {
		return nil, fmt.Errorf("decode ECC key: %w", err)
	}
	if _, err := key.ECDH(); err != nil { // checks that the point is on the curve
		return nil, fmt.Errorf("decode ECC key: %w", err)
	}
	return key, nil
}

// signingKey returns the key of a public area that is an ECDSA P-256 signing key
// with SHA-256 names, made in a TPM that never lets it out. restricted says
// whether it must be one that signs only what the TPM itself made (part 1, 25).
func signingKey(p *tpm2.TPMTPublic, restricted bool) (*ecdsa.PublicKey, error) {
	a := p.ObjectAttributes
	switch {
	case p.NameAlg != tpm2.TPMAlgSHA256:
		return nil, errors.New("its name is not SHA-256")
	case !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin:
		return nil, errors.New("it is not fixed to the TPM that made it (fixedTPM, fixedParent, sensitiveDataOrigin)")
	case !a.SignEncrypt || a.Decrypt:
		return nil, errors.New("it is not a key that only signs")
	case a.Restricted != restricted:
		return nil, fmt.Errorf("restricted is %v, want %v", a.Restricted, restricted)
	}
	key, err := publicKey(p)
	if err != nil {
		return nil, err
	}
	ec, ok := key.(*ecdsa.PublicKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, errors.New("it is not ECDSA P-256")
	}
	if restricted {
		return ec, checkScheme(p)
	}
	return ec, nil
}

// checkScheme: a restricted key's scheme is part of what it is.
func checkScheme(p *tpm2.TPMTPublic) error {
	parms, err := p.Parameters.ECCDetail()
	if err != nil {
		return fmt.Errorf("decode ECC parameters: %w", err)
	}
	scheme, err := parms.Scheme.Details.ECDSA()
	if parms.Scheme.Scheme != tpm2.TPMAlgECDSA || err != nil || scheme.HashAlg != tpm2.TPMAlgSHA256 {
		return errors.New("its scheme is not ECDSA with SHA-256")
	}
	return nil
}

// SameKey says whether the key in a TPMT_PUBLIC is key, the one of a CSR.
func SameKey(public []byte, key crypto.PublicKey) error {
	p, err := parsePublic(public)
	if err != nil {
		return err
	}
	inside, err := publicKey(p)
	if err != nil {
		return err
	}
	k, ok := inside.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !k.Equal(key) {
		return errors.New("the TPM's key is not the key of the request")
	}
	return nil
}
