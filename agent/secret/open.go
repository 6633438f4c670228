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

// ErrUnit says that a secret was not sealed for the unit that asks.
var ErrUnit = errors.New("it is not for this unit")

// Get opens a secret. Errors: ErrAbsent, *seal.Refusal, tpm.ErrReplaced, tpm.ErrDamaged.
func (s *Store) Get(ctx context.Context, name string) ([]byte, error) {
	return s.lockedGet(ctx, name, anybody)
}

// GetFor opens a secret that was sealed for this systemd unit; one that was sealed
// for none is not for units. Errors: as Get, and ErrUnit.
func (s *Store) GetFor(ctx context.Context, unit, name string) ([]byte, error) {
	return s.lockedGet(ctx, name, func(i seal.Info) error {
		switch {
		case i.Unit == "":
			return fmt.Errorf("%w: it was sealed without --unit", ErrUnit)
		case i.Unit != unit:
			return ErrUnit
		}
		return nil
	})
}

func anybody(seal.Info) error { return nil }

func (s *Store) lockedGet(ctx context.Context, name string, may func(seal.Info) error) ([]byte, error) {
	if err := CheckName(name); err != nil {
		return nil, fmt.Errorf("open secret: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	secret, err := s.get(ctx, name, may)
	if err != nil {
		return nil, fmt.Errorf("open secret %s: %w", name, err)
	}
	return secret, nil
}

// get tries the file that counts, and then the one for the coming counter value,
// which counts if the power was cut between the raise and Settle. Who may have it
// is asked of the bytes that are opened.
func (s *Store) get(ctx context.Context, name string, may func(seal.Info) error) ([]byte, error) {
	blob, err := s.read(name, current)
	if err != nil {
		return nil, err
	}
	secret, err := s.open(ctx, blob, name, may)
	var refused *seal.Refusal
	if err == nil || !errors.As(err, &refused) || refused.Rule != "counter" {
		return secret, err
	}
	next, nextErr := s.read(name, coming)
	if errors.Is(nextErr, ErrAbsent) { // the writing process may just have settled
		next, nextErr = s.read(name, current)
	}
	if nextErr != nil {
		return nil, err // of the file that counts
	}
	return s.open(ctx, next, name, may)
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

// inspect refuses a file that was renamed: the name inside is authenticated.
func inspect(blob []byte, name string) (seal.Info, error) {
	info, err := seal.Inspect(blob)
	if err == nil && info.Name != name {
		err = fmt.Errorf("%w: the file is that of secret %q", tpm.ErrDamaged, info.Name)
	}
	return info, err
}

func (s *Store) open(ctx context.Context, blob []byte, name string, may func(seal.Info) error) ([]byte, error) {
	info, err := inspect(blob, name)
	if err != nil {
		return nil, err
	}
	if err := may(info); err != nil {
		return nil, err
	}
	signed, err := s.c.Signed(ctx)
	if err != nil {
		return nil, err
	}
	return seal.Unseal(ctx, s.c.TPM, blob, signed)
}

// seal pins the chip's storage key at first use.
func (s *Store) seal(ctx context.Context, policy seal.Policy, name string, terms Terms, secret []byte) ([]byte, error) {
	pin, err := s.pin()
	if err != nil {
		return nil, err
	}
	policy.Name, policy.Unit, policy.Storage = name, terms.Unit, pin
	policy.Ref.Until, policy.Recovery = terms.Until, terms.Recovery
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
