package agent

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/gatewarden/gatewarden/agent/health"
	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/agent/secret"
	"github.com/gatewarden/gatewarden/internal/helperwire"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/counter"
	"github.com/gatewarden/gatewarden/tpm/seal"
	"github.com/gatewarden/gatewarden/update"
	"github.com/gatewarden/gatewarden/update/release"
)

// ruleSecrets ends an update on whose release a sealed secret would be lost.
const ruleSecrets = "secrets"

// secrets ties what is sealed to the release that runs and to the epoch that was
// reached: the helper knows both, the engine keeps what the owner signed of it.
type secrets struct {
	agent *Agent
	store *secret.Store
}

func (a *Agent) openSecrets() (err error) {
	s := &secrets{agent: a}
	s.store, err = secret.New(secret.Config{
		FS: a.fs, Dir: a.path("secrets"), TPM: a.tpm, Policy: s.policy, Signed: s.signed, Log: a.log,
	})
	a.secrets = s
	return err
}

// slots asks the helper; secrets need a counter that can be believed.
func (s *secrets) slots(ctx context.Context) (helperwire.Slots, counter.Record, error) {
	var record counter.Record
	slots, err := s.agent.helper.Slots(ctx)
	switch {
	case err != nil:
		return slots, record, err
	case s.agent.updates == nil:
		return slots, record, errors.New("this gateway follows no update repository, which has the PCR policies: install the owner's root.json in the trust folder")
	case slots.Counter != "ok":
		return slots, record, fmt.Errorf("no epoch counter to seal to (%s): run the helper with --epoch-counter; `gatewarden status` shows its alarms", slots.Counter)
	}
	return slots, record, json.Unmarshal(slots.CounterRecord, &record)
}

// policy is to what a new secret is sealed.
func (s *secrets) policy(ctx context.Context) (seal.Policy, error) {
	slots, record, err := s.slots(ctx)
	if err != nil {
		return seal.Policy{}, err
	}
	r, err := s.agent.updates.Running(ctx, slots)
	if err != nil {
		return seal.Policy{}, err
	}
	value, err := s.count(ctx, record)
	if err != nil {
		return seal.Policy{}, err
	}
	p, err := s.policyFor(ctx, r, slots.Epoch)
	p.Counter = counterAt(record, value)
	return p, err
}

func counterAt(record counter.Record, value uint64) seal.Counter {
	return seal.Counter{Index: record.Index, Name: record.Name(), Value: value}
}

// count reads the chip's counter.
func (s *secrets) count(ctx context.Context, record counter.Record) (value uint64, err error) {
	err = s.agent.tpm.Do(ctx, "read epoch counter", func(c *tpm.Chip) (err error) {
		value, err = counter.Read(c, record)
		return err
	})
	return value, err
}

// policyFor seals to a release that runs, at an epoch.
func (s *secrets) policyFor(ctx context.Context, r *release.Release, epoch uint64) (seal.Policy, error) {
	var p seal.Policy
	key, err := s.agent.updates.PolicyKey(ctx, r.Product)
	if err != nil {
		return p, err
	}
	p = seal.Policy{Key: key, SecureBoot: s.secureBoot()}
	p.Ref = tpmpolicy.Ref{Product: r.Product, Channel: r.Channel, Epoch: epoch}
	p.Ref.PCRs, err = s.choose(ctx, r, p)
	return p, err
}

func (s *secrets) secureBoot() bool {
	return slices.ContainsFunc(s.agent.health.Report().Findings, func(f wire.Finding) bool {
		return f.Check == "secureboot" && f.Status == health.OK
	})
}

// choose takes the largest set of PCRs whose values now the release approves.
func (s *secrets) choose(ctx context.Context, r *release.Release, p seal.Policy) ([]int, error) {
	fingerprint, err := tpmpolicy.Fingerprint(p.Key)
	if err != nil {
		return nil, err
	}
	var best []int
	for _, one := range r.PCRPolicies {
		if one.Epoch != p.Ref.Epoch || one.Until != "" || one.Key != release.Digest(fingerprint) || len(one.PCRs) <= len(best) {
			continue
		}
		now, err := s.agent.tpm.ReadPCRs(ctx, one.PCRs)
		if err != nil {
			return nil, err
		}
		values := make(map[int]tpmpolicy.Digest, len(now))
		for pcr, value := range now {
			values[pcr] = value
		}
		if digest, err := (tpmpolicy.Digest{}).PCR(values); err != nil || digest != tpmpolicy.Digest(one.Policy) {
			continue
		}
		if tpmpolicy.CheckPCRs(one.PCRs, p.SecureBoot) == nil {
			best = one.PCRs
		}
	}
	if best == nil {
		return nil, fmt.Errorf("release %s approves no boot like this one (%d PCR policies, Secure Boot verified: %t): `gatewarden attest` says what differs",
			r.Version, len(r.PCRPolicies), p.SecureBoot)
	}
	return best, nil
}

// signed are the PCR policies of the release that runs.
func (s *secrets) signed(ctx context.Context) ([]tpmpolicy.Signed, error) {
	slots, _, err := s.slots(ctx)
	if err != nil {
		return nil, err
	}
	r, err := s.agent.updates.Running(ctx, slots)
	if err != nil {
		return nil, err
	}
	return secret.Signed(r), nil
}

// Prepare holds that every secret opens on trial, and seals each for the epoch to
// come. One that is damaged or shut for good already is not the release's fault.
func (s *secrets) Prepare(ctx context.Context, r *release.Release) error {
	items, err := s.store.List()
	if err != nil || len(items) == 0 {
		return err
	}
	for _, item := range items {
		_, err := s.store.Get(ctx, item.Name)
		var refused *seal.Refusal
		if errors.As(err, &refused) && (refused.Rule == "pcr" || refused.Rule == "unsigned") {
			return &policy.Refusal{Rule: ruleSecrets, Text: fmt.Sprintf("Secret %s does not open in it: %s.", item.Name, refused.Text)}
		}
	}
	slots, record, err := s.slots(ctx)
	if err != nil {
		return err
	}
	epoch := max(slots.Epoch, r.Epoch)
	next, err := s.policyFor(ctx, r, epoch)
	if err != nil {
		return err
	}
	next.Counter = counterAt(record, record.Initial+epoch)
	err = s.store.Prepare(ctx, next)
	if errors.Is(err, tpm.ErrPolicy) || errors.Is(err, tpm.ErrDamaged) || errors.Is(err, tpm.ErrReplaced) {
		return &policy.Refusal{Rule: ruleSecrets, Text: err.Error() + "; `gatewarden secrets rm` gives one up"}
	}
	return err
}

// Settle ends the re-seal, and seals again to a PCR-policy key that replaced the
// one before.
func (s *secrets) Settle(ctx context.Context, r *release.Release) error {
	items, err := s.store.List()
	if err != nil || len(items) == 0 {
		return err
	}
	_, record, err := s.slots(ctx)
	if err != nil {
		return err
	}
	value, err := s.count(ctx, record)
	if err != nil {
		return err
	}
	if err := s.store.Settle(value); err != nil {
		return err
	}
	key, err := s.agent.updates.PolicyKey(ctx, r.Product)
	if err != nil {
		return err
	}
	return s.follow(ctx, key)
}

// follow re-seals if anything is sealed to another key.
func (s *secrets) follow(ctx context.Context, key crypto.PublicKey) error {
	der, err := tpmpolicy.MarshalKey(key)
	if err != nil {
		return err
	}
	items, err := s.store.List()
	if err != nil || !slices.ContainsFunc(items, func(i secret.Item) bool { return i.Damaged == nil && !bytes.Equal(i.Key, der) }) {
		return err
	}
	return s.store.Reseal(ctx)
}

// settleSecrets ends, at a start, what a power cut or a roll back left of a re-seal.
func (a *Agent) settleSecrets(ctx context.Context) error {
	if err := a.secrets.tidy(ctx); err != nil && ctx.Err() == nil {
		a.log.Info("sealed secrets are left as they are", "reason", err)
	}
	<-ctx.Done()
	return ctx.Err()
}

// tidy forgets what was sealed for an epoch that will not be reached: the engine is
// not about to commit, and the counter has all that the record says.
func (s *secrets) tidy(ctx context.Context) error {
	slots, record, err := s.slots(ctx)
	if err != nil {
		return err
	}
	value, err := s.count(ctx, record)
	if err != nil {
		return err
	}
	switch s.agent.updates.Status().State {
	case update.Trying, update.Confirming, update.Committing:
		return s.store.Settle(value)
	}
	if value < record.Initial+slots.Epoch {
		return s.store.Settle(value)
	}
	return s.store.Abort(value)
}

// SecretPut, SecretGet, SecretList and SecretRemove are what the local socket asks.
func (s *secrets) SecretPut(ctx context.Context, name, unit string, data []byte) ([]string, error) {
	if err := s.store.Put(ctx, name, unit, data); err != nil {
		return nil, err
	}
	s.agent.event("secret.sealed", name)
	var warnings []string
	if line, err := os.ReadFile("/proc/cmdline"); err != nil || !coversRoot(string(line)) {
		warnings = append(warnings, "no dm-verity root hash is in the kernel command line: whoever writes to the disk can change the programs that read this secret")
	}
	return warnings, nil
}

// coversRoot says whether the measured command line holds a hash of the root file
// system (veritysetup, systemd-veritysetup-generator(8), dm-init).
func coversRoot(line string) bool {
	return slices.ContainsFunc(strings.Fields(line), func(word string) bool {
		key, value, _ := strings.Cut(word, "=")
		return value != "" && (key == "roothash" || key == "dm-mod.create" && strings.Contains(line, "verity"))
	})
}

func (s *secrets) SecretGet(ctx context.Context, name string) ([]byte, error) {
	data, err := s.store.Get(ctx, name)
	if err != nil {
		s.agent.log.Warn("secret stays shut", "name", name, "error", err)
	}
	return data, err
}

func (s *secrets) SecretList() ([]local.Secret, error) {
	items, err := s.store.List()
	list := make([]local.Secret, 0, len(items))
	for _, i := range items {
		one := local.Secret{Name: i.Name, Unit: i.Unit, Epoch: i.Epoch}
		if i.Damaged != nil {
			one.Problem = i.Damaged.Error()
		}
		list = append(list, one)
	}
	return list, err
}

func (s *secrets) SecretRemove(name string) error {
	err := s.store.Remove(name)
	if err == nil {
		s.agent.event("secret.removed", name)
	}
	return err
}

var (
	_ update.Resealer = (*secrets)(nil)
	_ local.Secrets   = (*secrets)(nil)
)
