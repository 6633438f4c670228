package secret

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/seal"
)

// Get opens a secret. Errors: ErrAbsent, *seal.Refusal, tpm.ErrReplaced, tpm.ErrDamaged.
func (s *Store) Get(ctx context.Context, name string) ([]byte, error) {
	if err := CheckName(name); err != nil {
		return nil, fmt.Errorf("open secret: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	secret, err := s.get(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("open secret %s: %w", name, err)
	}
	return secret, nil
}

// get tries the file that counts, and then the one for the coming counter value,
// which counts if the power was cut between the raise and Settle.
func (s *Store) get(ctx context.Context, name string) ([]byte, error) {
	blob, err := s.read(name, current)
	if err != nil {
		return nil, err
	}
	secret, err := s.open(ctx, blob, name)
	var refused *seal.Refusal
	if err == nil || !errors.As(err, &refused) || refused.Rule != "counter" {
		return secret, err
	}
	next, nextErr := s.read(name, coming)
	if nextErr != nil {
		return nil, err // of the file that counts
	}
	return s.open(ctx, next, name)
}

func (s *Store) read(name, kind string) ([]byte, error) {
	blob, err := s.c.FS.ReadFile(s.path(name, kind), seal.MaxBlob)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrAbsent
	}
	if errors.Is(err, fsx.ErrDamaged) {
		return nil, fmt.Errorf("%w: %w", tpm.ErrDamaged, err)
	}
	return blob, err
}

// open refuses a file that was renamed: the name inside is authenticated.
func (s *Store) open(ctx context.Context, blob []byte, name string) ([]byte, error) {
	info, err := seal.Inspect(blob)
	if err != nil {
		return nil, err
	}
	if info.Name != name {
		return nil, fmt.Errorf("%w: the file is that of secret %q", tpm.ErrDamaged, info.Name)
	}
	signed, err := s.c.Signed(ctx)
	if err != nil {
		return nil, err
	}
	return seal.Unseal(ctx, s.c.TPM, blob, signed)
}

// seal pins the chip's storage key at first use.
func (s *Store) seal(ctx context.Context, policy seal.Policy, name, unit string, secret []byte) ([]byte, error) {
	pin, err := s.pin()
	if err != nil {
		return nil, err
	}
	policy.Name, policy.Unit, policy.Storage = name, unit, pin
	blob, err := seal.Seal(ctx, s.c.TPM, secret, policy)
	if err != nil || pin != nil {
		return blob, err
	}
	info, err := seal.Inspect(blob)
	if err != nil {
		return nil, err
	}
	return blob, s.c.FS.WriteFile(filepath.Join(s.c.Dir, pinFile), info.Storage, 0o600)
}

// pin is the Name of the storage key that was used first, or nil.
func (s *Store) pin() ([]byte, error) {
	pin, err := s.c.FS.ReadFile(filepath.Join(s.c.Dir, pinFile), pinSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && len(pin) != pinSize {
		return nil, fmt.Errorf("%w: %s has %d bytes, not %d", tpm.ErrDamaged, pinFile, len(pin), pinSize)
	}
	return pin, err
}
