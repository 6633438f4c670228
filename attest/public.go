package attest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/binary"
	"fmt"
	"math/big"
)

// Values of TPM 2.0 Library, part 2: section 6.3 (algorithms), 6.4 (curves), 8.3.2
// (object attributes).
const (
	algRSA    Algorithm = 0x0001
	algNull   Algorithm = 0x0010
	algRSASSA Algorithm = 0x0014
	algRSAPSS Algorithm = 0x0016
	algECDSA  Algorithm = 0x0018
	algECC    Algorithm = 0x0023

	curveP256 = 0x0003

	attrFixedTPM    = 1 << 1
	attrFixedParent = 1 << 4
	attrOrigin      = 1 << 5 // sensitiveDataOrigin
	attrRestricted  = 1 << 16
	attrDecrypt     = 1 << 17
	attrSign        = 1 << 18
)

// attestationKey is a TPMT_PUBLIC that may sign quotes.
type attestationKey struct {
	scheme Algorithm // algECDSA, algRSASSA or algRSAPSS
	hash   Algorithm
	public crypto.PublicKey
}

// parseAK reads TPMT_PUBLIC (part 2, section 12.2.4) and refuses all but a
// restricted signing key, made in the TPM and fixed to it, over P-256 or
// RSA 2048: only such a key signs nothing that merely looks like a quote.
func parseAK(data []byte) (*attestationKey, error) {
	if len(data) > maxPublic {
		return nil, fmt.Errorf("%d bytes, at most %d are allowed", len(data), maxPublic)
	}
	c := &cursor{data: data, order: binary.BigEndian}
	kind, nameAlg := Algorithm(c.u16("type")), Algorithm(c.u16("name algorithm"))
	attributes := c.u32("attributes")
	c.sized(64, "authPolicy")
	if c.err != nil {
		return nil, c.err
	}
	const must, mustNot = attrFixedTPM | attrFixedParent | attrOrigin | attrRestricted | attrSign, attrDecrypt
	if nameAlg != AlgSHA256 || attributes&must != must || attributes&mustNot != 0 {
		return nil, fmt.Errorf("attributes 0x%08x are not those of a restricted signing key of one TPM", attributes)
	}
	if symmetric := Algorithm(c.u16("symmetric")); c.err == nil && symmetric != algNull {
		return nil, fmt.Errorf("a signing key with a symmetric algorithm")
	}
	ak := &attestationKey{scheme: Algorithm(c.u16("scheme")), hash: Algorithm(c.u16("scheme hash"))}
	switch {
	case c.err != nil:
		return nil, c.err
	case kind == algECC && ak.scheme == algECDSA:
		return ak, ak.readECC(c)
	case kind == algRSA && (ak.scheme == algRSASSA || ak.scheme == algRSAPSS):
		return ak, ak.readRSA(c)
	}
	return nil, fmt.Errorf("key type %s with scheme %s", kind, ak.scheme)
}

func (ak *attestationKey) readECC(c *cursor) error {
	curve, kdf := c.u16("curve"), Algorithm(c.u16("kdf"))
	x, y := c.sized(48, "x"), c.sized(48, "y")
	if err := c.end("public area"); err != nil {
		return err
	}
	if curve != curveP256 || kdf != algNull {
		return fmt.Errorf("curve 0x%04x, only P-256 is accepted", curve)
	}
	if len(x) > 32 || len(y) > 32 {
		return fmt.Errorf("coordinates of %d and %d bytes on P-256", len(x), len(y))
	}
	point := make([]byte, 65)
	point[0] = 4
	copy(point[33-len(x):33], x)
	copy(point[65-len(y):65], y)
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return fmt.Errorf("point is not on P-256")
	}
	ak.public = public
	return nil
}

func (ak *attestationKey) readRSA(c *cursor) error {
	bits, exponent := c.u16("key bits"), c.u32("exponent")
	modulus := c.sized(512, "modulus")
	if err := c.end("public area"); err != nil {
		return err
	}
	n := new(big.Int).SetBytes(modulus)
	if bits != 2048 || len(modulus) != 256 || n.BitLen() != 2048 || n.Bit(0) == 0 {
		return fmt.Errorf("RSA key of %d bits, only 2048 are accepted", bits)
	}
	if exponent != 0 && exponent != 65537 {
		return fmt.Errorf("RSA exponent %d", exponent)
	}
	ak.public = &rsa.PublicKey{N: n, E: 65537}
	return nil
}
