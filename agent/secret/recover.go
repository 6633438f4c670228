package secret

import (
	"context"
	"fmt"

	"github.com/gatewarden/gatewarden/tpm/seal"
)

// RecoveryDigest is what the recovery key of a secret has to sign, so that Recover
// opens it: this file of it, and no later one.
func (s *Store) RecoveryDigest(name string) ([]byte, error) {
	blob, err := s.lockedRead(name)
	if err != nil {
		return nil, fmt.Errorf("recover secret: %w", err)
	}
	return seal.RecoveryDigest(blob)
}

// Recover opens a secret by its recovery key's signature, whatever was booted.
// Errors: as Get.
func (s *Store) Recover(ctx context.Context, name string, signature []byte) ([]byte, error) {
	blob, err := s.lockedRead(name)
	if err != nil {
		return nil, fmt.Errorf("recover secret: %w", err)
	}
	return seal.Recover(ctx, s.c.TPM, blob, signature)
}

func (s *Store) lockedRead(name string) ([]byte, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	blob, err := s.read(name, current)
	if err == nil {
		_, err = inspect(blob, name)
	}
	return blob, err
}
