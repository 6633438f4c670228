package seal

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm"
)

// RecoveryDigest is what the off-line recovery key signs (SHA-256; RSASSA-PKCS1-v1_5,
// or ECDSA in ASN.1) so that Recover opens this file, and no other, in any boot. The
// signature does not expire: it is worth as much as the secret, together with the
// machine.
func RecoveryDigest(blob []byte) ([]byte, error) {
	f, err := parse(blob)
	if err != nil {
		return nil, err
	}
	if f.Header.Recovery == nil {
		return nil, errors.New("recover secret: it was sealed without a recovery key")
	}
	command, err := f.unsealCommand()
	if err != nil {
		return nil, fmt.Errorf("recover secret: %w", err)
	}
	// aHash of PolicySigned (TPM 2.0 Part 3, 23.3): no nonce, no expiration, cpHash, no ref.
	digest := sha256.Sum256(append(make([]byte, 4), command...))
	return digest[:], nil
}

// unsealCommand is cpHash of TPM2_Unseal for this object (Part 1, 18.7): code and Name.
func (f *file) unsealCommand() ([]byte, error) {
	name, err := f.name()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append(binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMCCUnseal)), name.Buffer...))
	return sum[:], nil
}

// Recover opens a sealed file by the recovery key's signature, whatever was booted
// and whatever epoch was reached. Errors as Unseal.
func Recover(ctx context.Context, t *tpm.TPM, blob, signature []byte) ([]byte, error) {
	digest, err := RecoveryDigest(blob)
	if err != nil {
		return nil, err
	}
	f, err := parse(blob)
	if err != nil {
		return nil, fmt.Errorf("recover secret: %w", err)
	}
	key, err := tpmpolicy.ParseKey(f.Header.Recovery)
	if err != nil {
		return nil, fmt.Errorf("recover secret: %w", err)
	}
	if err := tpmpolicy.VerifySignature(key, digest, signature); err != nil {
		return nil, fmt.Errorf("recover secret: %w", refuse("policy", nil, "the recovery key signed another file, or another key signed"))
	}
	return f.unseal(ctx, t, func(c *tpm.Chip, s *session) error { return f.satisfyRecovery(c, s, signature) })
}

func (f *file) satisfyRecovery(c *tpm.Chip, s *session, signature []byte) error {
	_, branches, err := f.Header.digest()
	if err != nil {
		return err
	}
	key, err := tpmpolicy.ParseKey(f.Header.Recovery)
	if err != nil {
		return err
	}
	signer, err := loadKey(c, key)
	if err != nil {
		return err
	}
	command, err := f.unsealCommand()
	if err != nil {
		return err
	}
	parsed, err := tpmSignature(key, signature)
	if err != nil {
		return err
	}
	_, err = tpm2.PolicySigned{
		AuthObject:    signer,
		PolicySession: s.Handle(),
		CPHashA:       tpm2.TPM2BDigest{Buffer: command},
		Auth:          parsed,
	}.Execute(c)
	if err != nil {
		return err
	}
	return s.or(c, branches)
}
