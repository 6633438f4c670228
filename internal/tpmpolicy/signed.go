package tpmpolicy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Signed is a PCR policy that a key approved. In systemd's file it has this JSON.
type Signed struct {
	PCRs      []int  `json:"pcrs"` // SHA-256 bank, ascending
	Key       Digest `json:"pkfp"` // Fingerprint of the key
	Policy    Digest `json:"pol"`  // digest of PolicyPCR over PCRs
	Signature []byte `json:"sig"`  // RSASSA-PKCS1-v1_5, or ECDSA in ASN.1, over SHA-256(Policy || ref)
}

// Approve signs the policy "the PCRs have these values" for the secrets that ref
// names. It refuses what protects nothing: for a chip, whatever the key signed for a
// ref opens what was sealed to it. The signature never expires, until the epoch in
// ref is left behind.
func Approve(key crypto.Signer, ref Ref, values map[int]Digest) (Signed, error) {
	digest, err := ref.Digest()
	if err != nil {
		return Signed{}, fmt.Errorf("approve PCR policy: %w", err)
	}
	if pcrs := slices.Sorted(maps.Keys(values)); !slices.Equal(pcrs, ref.PCRs) {
		return Signed{}, fmt.Errorf("approve PCR policy: values of PCRs %v for a policy about %v", pcrs, ref.PCRs)
	}
	for _, pcr := range []int{4, 11} {
		if value, ok := values[pcr]; ok && value.IsZero() {
			return Signed{}, fmt.Errorf("approve PCR policy: PCR %d is zero, as in a boot that measures nothing", pcr)
		}
	}
	return approve(key, digest[:], values)
}

// ApproveWithoutRef is for systemd-cryptsetup, which knows no ref. No secret of this
// program opens by it.
func ApproveWithoutRef(key crypto.Signer, values map[int]Digest) (Signed, error) {
	return approve(key, nil, values)
}

func approve(key crypto.Signer, ref []byte, values map[int]Digest) (Signed, error) {
	fingerprint, err := Fingerprint(key.Public())
	if err != nil {
		return Signed{}, fmt.Errorf("approve PCR policy: %w", err)
	}
	policy, err := Digest{}.PCR(values)
	if err != nil {
		return Signed{}, fmt.Errorf("approve PCR policy: %w", err)
	}
	signature, err := key.Sign(rand.Reader, approval(policy, ref), crypto.SHA256)
	if err != nil {
		return Signed{}, fmt.Errorf("approve PCR policy: %w", err)
	}
	return Signed{PCRs: slices.Sorted(maps.Keys(values)), Key: fingerprint, Policy: policy, Signature: signature}, nil
}

// approval is aHash of PolicyAuthorize (TPM 2.0 Part 3, 23.16): what gets signed.
func approval(policy Digest, ref []byte) []byte {
	sum := sha256.Sum256(append(policy[:], ref...))
	return sum[:]
}

// Digest is what the signature is over, given ref.
func (s Signed) Digest(ref []byte) []byte { return approval(s.Policy, ref) }

// Verify checks that key approved the policy for ref.
func (s Signed) Verify(key crypto.PublicKey, ref []byte) error {
	fingerprint, err := Fingerprint(key)
	if err != nil {
		return fmt.Errorf("verify PCR policy: %w", err)
	}
	if fingerprint != s.Key {
		return errors.New("verify PCR policy: signed by another key")
	}
	return VerifySignature(key, s.Digest(ref), s.Signature)
}

// VerifySignature checks a signature of an approving key over a SHA-256 digest.
func VerifySignature(key crypto.PublicKey, digest, signature []byte) error {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, digest, signature); err != nil {
			return fmt.Errorf("verify PCR policy: %w", err)
		}
		return nil
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(key, digest, signature) {
			return errors.New("verify PCR policy: the signature is wrong")
		}
		return nil
	}
	return fmt.Errorf("verify PCR policy: %T is no policy key", key)
}
