package attest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/big"
)

const (
	tpmGenerated = 0xff544347 // TPM_GENERATED_VALUE, part 2, section 6.2
	attestQuote  = 0x8018     // TPM_ST_ATTEST_QUOTE, part 2, section 6.9
)

// quote is a TPMS_ATTEST of a quote.
type quote struct {
	extraData []byte
	clock     Clock
	selection []pcrSelection
	pcrDigest []byte
}

type pcrSelection struct {
	bank Algorithm
	mask []byte // bit n of byte m is PCR 8m+n
}

// openQuote checks the signature first and reads only then what was signed.
func openQuote(ak *attestationKey, signed, signature []byte) (*quote, error) {
	if len(signed) > maxQuote || len(signature) > maxSignature {
		return nil, refuse("size", "quote of %d and signature of %d bytes", len(signed), len(signature))
	}
	if ak.hash != AlgSHA256 {
		return nil, refuse("key", "the attestation key signs with %s, not sha256", ak.hash)
	}
	if err := ak.verify(sha256Sum(signed), signature, crypto.SHA256); err != nil {
		return nil, refuse("signature", "the quote's signature: %v", err)
	}
	return parseQuote(signed)
}

func sha256Sum(data []byte) []byte {
	sum := sha256.Sum256(data)
	return sum[:]
}

// verify checks a TPMT_SIGNATURE (part 2, section 11.3.4) over digest. Scheme and
// hash must be the key's own.
func (ak *attestationKey) verify(digest, signature []byte, hash crypto.Hash) error {
	c := &cursor{data: signature, order: binary.BigEndian}
	scheme, alg := Algorithm(c.u16("scheme")), Algorithm(c.u16("hash"))
	if c.err == nil && (scheme != ak.scheme || alg != ak.hash) {
		return fmt.Errorf("scheme %s with %s is not the key's", scheme, alg)
	}
	switch public := ak.public.(type) {
	case *ecdsa.PublicKey:
		r, s := c.sized(32, "r"), c.sized(32, "s")
		if err := c.end("signature"); err != nil {
			return err
		}
		if !ecdsa.Verify(public, digest, new(big.Int).SetBytes(r), new(big.Int).SetBytes(s)) {
			return fmt.Errorf("it is not by this key or not over these bytes")
		}
		return nil
	case *rsa.PublicKey:
		sig := c.sized(256, "signature")
		if err := c.end("signature"); err != nil {
			return err
		}
		if scheme == algRSAPSS {
			return rsa.VerifyPSS(public, hash, digest, sig, nil)
		}
		return rsa.VerifyPKCS1v15(public, hash, digest, sig)
	}
	return fmt.Errorf("no such kind of key")
}

// parseQuote reads TPMS_ATTEST (part 2, section 10.12.12) and accepts a quote
// that a TPM made, and nothing else that an attestation key may sign.
func parseQuote(data []byte) (*quote, error) {
	c := &cursor{data: data, order: binary.BigEndian}
	if magic := c.u32("magic"); c.err == nil && magic != tpmGenerated {
		return nil, refuse("magic", "magic is 0x%08x: no TPM made this", magic)
	}
	if kind := c.u16("type"); c.err == nil && kind != attestQuote {
		return nil, refuse("type", "attestation type 0x%04x is not a quote", kind)
	}
	q := &quote{}
	c.sized(68, "qualifiedSigner")
	q.extraData = c.sized(66, "extraData")
	q.readClock(c)
	q.readSelection(c)
	q.pcrDigest = c.sized(64, "pcrDigest")
	if err := c.end("quote"); err != nil {
		return nil, refuse("format", "the quote: %v", err)
	}
	return q, nil
}

func (q *quote) readClock(c *cursor) {
	q.clock.Milliseconds = c.u64("clock")
	q.clock.ResetCount = c.u32("resetCount")
	q.clock.RestartCount = c.u32("restartCount")
	safe := c.u8("safe")
	if safe > 1 {
		c.fail(c.pos-1, "TPMI_YES_NO of %d", safe)
	}
	q.clock.Safe = safe == 1
	q.clock.FirmwareVersion = c.u64("firmwareVersion")
}

// readSelection reads TPML_PCR_SELECTION (part 2, section 10.9.7).
func (q *quote) readSelection(c *cursor) {
	at := c.pos
	count := c.u32("number of selections")
	if c.err == nil && count > maxAlgorithms {
		c.fail(at, "%d PCR selections", count)
	}
	if c.err != nil {
		return
	}
	for range count {
		s := pcrSelection{bank: Algorithm(c.u16("bank"))}
		s.mask = c.take(uint64(c.u8("size of select")), "select")
		q.selection = append(q.selection, s)
	}
}

// coversSelection reports whether the quote is over Selection() in the SHA-256
// bank and nothing else.
func (q *quote) coversSelection() bool {
	if len(q.selection) != 1 || q.selection[0].bank != AlgSHA256 {
		return false
	}
	var want [4]byte
	for _, pcr := range selection {
		want[pcr/8] |= 1 << (pcr % 8)
	}
	mask := q.selection[0].mask
	if len(mask) < 2 || len(mask) > len(want) {
		return false
	}
	for i, b := range want {
		if i < len(mask) && mask[i] != b {
			return false
		}
	}
	return true
}

// pcrsDigest is what a quote over Selection() with these values carries.
func pcrsDigest(pcrs map[int]Digest) Digest {
	values := make([]byte, 0, len(selection)*sha256.Size)
	for _, pcr := range selection {
		value := pcrs[pcr]
		values = append(values, value[:]...)
	}
	return sha256.Sum256(values)
}

func refuse(rule, format string, args ...any) *Refusal {
	return &Refusal{Rule: rule, Text: fmt.Sprintf(format, args...)}
}
