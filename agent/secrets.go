package agent

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"

	"github.com/gatewarden/gatewarden/agent/health"
	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/agent/secret"
	"github.com/gatewarden/gatewarden/internal/helperwire"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm/seal"
	"github.com/gatewarden/gatewarden/update"
	"github.com/gatewarden/gatewarden/update/release"
)

// errNoRepository is what seals and unseals get where the owner installed no root.
var errNoRepository = errors.New("this gateway follows no update repository, which has the PCR policies: install the owner's root.json in the trust folder")

func (a *Agent) openSecrets() (err error) {
	if a.tpm == nil {
		return nil
	}
	a.secrets, err = secret.NewKeeper(secret.KeeperConfig{
		FS: a.fs, Dir: a.path("secrets"), TPM: a.tpm, Slots: a.helper.Slots,
		Running: func(ctx context.Context, s helperwire.Slots) (*release.Release, error) {
			if a.updates == nil {
				return nil, errNoRepository
			}
			return a.updates.Running(ctx, s)
		},
		Key: func(ctx context.Context, product string) (crypto.PublicKey, error) {
			if a.updates == nil {
				return nil, errNoRepository
			}
			return a.updates.PolicyKey(ctx, product)
		},
		SecureBoot: a.secureBoot, Log: a.log,
	})
	return err
}

func (a *Agent) secureBoot() bool {
	return slices.ContainsFunc(a.health.Report().Findings, func(f wire.Finding) bool {
		return f.Check == "secureboot" && f.Status == health.OK
	})
}

// settleSecrets ends, at a start, what a power cut or a roll back left of a re-seal.
func (a *Agent) settleSecrets(ctx context.Context) error {
	if a.updates != nil {
		committing := a.onTrial()
		err := a.patiently(ctx, func() error { return a.secrets.Tidy(ctx, committing) })
		if err != nil && ctx.Err() == nil {
			a.log.Info("sealed secrets are left as they are", "reason", err)
		}
	}
	<-ctx.Done()
	return ctx.Err()
}

// secrets is what the local socket asks.
type secrets struct{ agent *Agent }

func (a *Agent) localSecrets() local.Secrets {
	if a.secrets == nil {
		return nil
	}
	return secrets{a}
}

func (s secrets) SecretPut(ctx context.Context, name string, what local.Sealing) ([]string, error) {
	if s.agent.locked.Load() {
		return nil, errLocked
	}
	terms := secret.Terms{Unit: what.Unit, Until: what.Until}
	if what.RecoveryKey != nil {
		key, err := tpmpolicy.ParseKey(what.RecoveryKey)
		if err != nil {
			return nil, fmt.Errorf("read recovery key: %w", err)
		}
		terms.Recovery = key
	}
	if err := s.agent.secrets.Put(ctx, name, terms, what.Data); err != nil {
		return nil, err
	}
	s.agent.event("secret.sealed", "secret "+name+" was sealed")
	covered, err := s.agent.secrets.CoversRoot(ctx)
	if err != nil || covered {
		return nil, err
	}
	return []string{"no dm-verity root hash is in the kernel command line: whoever writes to the disk can change the programs that read this secret"}, nil
}

func (s secrets) SecretGet(ctx context.Context, name string) ([]byte, error) {
	data, err := s.agent.secrets.Get(ctx, name)
	err = whyShut(err, s.agent.ofBoot.Load())
	if err != nil && s.agent.locked.Load() {
		err = fmt.Errorf("%w; %w", errLocked, err)
	}
	if err != nil {
		s.agent.log.Warn("secret stays shut", "name", name, "error", err)
	}
	return data, err
}

// whyShut adds to a refusal for other PCRs how the fleet judged this boot, if it did:
// it looked at the events behind them.
func whyShut(err error, v *wire.Verdict) error {
	var refused *seal.Refusal
	if v == nil || len(v.Explanation) == 0 || !errors.As(err, &refused) || refused.Rule != "pcr" {
		return err
	}
	return fmt.Errorf("%w; the fleet judged this boot %s", err, v.Explanation[0])
}

func (s secrets) SecretDigest(name string) ([]byte, error) {
	return s.agent.secrets.RecoveryDigest(name)
}

func (s secrets) SecretRecover(ctx context.Context, name string, signature []byte) ([]byte, error) {
	data, err := s.agent.secrets.Recover(ctx, name, signature)
	if err == nil {
		s.agent.event("secret.recovered", "secret "+name+" was opened by its recovery key")
	}
	return data, err
}

func (s secrets) SecretReset() error {
	err := s.agent.secrets.Reset()
	if err == nil {
		s.agent.event("secret.reset", "all secrets were forgotten")
	}
	return err
}

func (s secrets) SecretList() ([]local.Secret, error) {
	items, err := s.agent.secrets.List()
	list := make([]local.Secret, 0, len(items))
	for _, i := range items {
		one := local.Secret{Name: i.Name, Unit: i.Unit, Until: i.Until, Epoch: i.Epoch}
		if i.Damaged != nil {
			one.Problem = i.Damaged.Error()
		}
		list = append(list, one)
	}
	return list, err
}

func (s secrets) SecretRemove(name string) error {
	err := s.agent.secrets.Remove(name)
	if err == nil {
		s.agent.event("secret.removed", "secret "+name+" was removed")
	}
	return err
}

var (
	_ update.Resealer = (*secret.Keeper)(nil)
	_ local.Secrets   = secrets{}
)
