package secret

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/seal"
)

// Prepare seals every secret again, for the policy to come: the new epoch in Ref and
// the value that the counter will have. It is durable when it returns; only then may
// the counter be raised. Repeating it is safe, after the raise too. A secret that does not open now is an
// error: raising the counter would lose it. Remove it, or stay at this epoch.
func (s *Store) Prepare(ctx context.Context, next seal.Policy) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	names, err := s.names(current)
	if err != nil {
		return fmt.Errorf("prepare re-seal: %w", err)
	}
	for _, name := range names {
		if err := s.prepare(ctx, next, name); err != nil {
			return fmt.Errorf("prepare re-seal of %s: %w", name, err)
		}
	}
	s.c.Log.Info("secrets sealed for the coming epoch", "count", len(names), "epoch", next.Ref.Epoch)
	return nil
}

func (s *Store) prepare(ctx context.Context, next seal.Policy, name string) error {
	blob, err := s.read(name, current)
	if err != nil {
		return err
	}
	info, err := seal.Inspect(blob)
	if err != nil {
		return err
	}
	switch {
	case info.Counter.Value == next.Counter.Value:
		return nil // a Settle that was cut off came so far
	case info.Counter.Value > next.Counter.Value:
		return fmt.Errorf("it is sealed for counter value %d already, and the coming one is %d", info.Counter.Value, next.Counter.Value)
	}
	terms, err := termsOf(info)
	if err != nil {
		return err
	}
	secret, err := s.get(ctx, name, anybody)
	if terms.Until != "" && isPast(err) {
		return fmt.Errorf("it shuts before the agent starts, which can't seal it for another epoch: %w", err)
	}
	if err != nil {
		return err
	}
	again, err := s.seal(ctx, next, name, terms, secret)
	if err != nil {
		return err
	}
	return s.c.FS.WriteFile(s.path(name, coming), again, 0o600)
}

// Settle ends a re-seal after the counter was raised, to value. Repeating it is safe;
// call it at each start. What was sealed for a value beyond is left for later, what
// was sealed for one below is removed.
func (s *Store) Settle(value uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	names, err := s.names(coming)
	if err != nil {
		return fmt.Errorf("settle re-seal: %w", err)
	}
	for _, name := range names {
		if err := s.settle(name, value); err != nil {
			return fmt.Errorf("settle re-seal of %s: %w", name, err)
		}
	}
	return nil
}

func (s *Store) settle(name string, value uint64) error {
	blob, err := s.read(name, coming)
	if err != nil {
		return err
	}
	info, err := seal.Inspect(blob)
	switch {
	case errors.Is(err, tpm.ErrDamaged) || err == nil && info.Counter.Value < value:
		s.c.Log.Error("a re-sealed secret is of no use; the one before is kept", "name", name, "err", err)
		return s.c.FS.Remove(s.path(name, coming))
	case err != nil:
		return err
	case info.Counter.Value > value:
		return nil
	}
	return s.c.FS.Rename(s.path(name, coming), s.path(name, current))
}

// Reseal seals every secret again as Config.Policy says now, at the same epoch: after
// the PCR-policy key, the set of PCRs or Secure Boot keys changed. Each is opened once
// before it replaces the one before.
func (s *Store) Reseal(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	names, err := s.names(current)
	if err != nil {
		return fmt.Errorf("re-seal: %w", err)
	}
	for _, name := range names {
		if err := s.reseal(ctx, name); err != nil {
			return fmt.Errorf("re-seal %s: %w", name, err)
		}
	}
	return nil
}

// resealTo seals one secret again, to a policy.
func (s *Store) resealTo(ctx context.Context, name string, policy seal.Policy) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.replace(ctx, name, func(context.Context) (seal.Policy, error) { return policy, nil }); err != nil {
		return fmt.Errorf("re-seal %s: %w", name, err)
	}
	return nil
}

func (s *Store) reseal(ctx context.Context, name string) error {
	return s.replace(ctx, name, s.c.Policy)
}

// replace opens a secret and puts it back as policy says.
func (s *Store) replace(ctx context.Context, name string, policy func(context.Context) (seal.Policy, error)) error {
	blob, err := s.read(name, current)
	if err != nil {
		return err
	}
	info, err := seal.Inspect(blob)
	if errors.Is(err, tpm.ErrDamaged) {
		s.c.Log.Error("a damaged secret is left as it is", "name", name, "error", err)
		return nil
	}
	if err != nil {
		return err
	}
	terms, err := termsOf(info)
	if err != nil {
		return err
	}
	secret, err := s.open(ctx, blob, name, anybody)
	if terms.Until != "" && isPast(err) {
		s.c.Log.Warn("a secret that shuts before the agent starts keeps its policy: seal it again before its PCR-policy key is dropped", "name", name)
		return nil
	}
	if err != nil {
		return err
	}
	return s.put(ctx, name, terms, secret, policy)
}

// Abort forgets a re-seal whose counter value was not reached and will not be: the
// update went back. value is what the counter shows; what fits it is kept.
func (s *Store) Abort(value uint64) error {
	if err := s.Settle(value); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	names, err := s.names(coming)
	if err != nil {
		return fmt.Errorf("abort re-seal: %w", err)
	}
	for _, name := range names {
		if err := s.c.FS.Remove(s.path(name, coming)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("abort re-seal of %s: %w", name, err)
		}
	}
	return nil
}
