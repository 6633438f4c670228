package secret

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/helperwire"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/counter"
	"github.com/gatewarden/gatewarden/tpm/seal"
	"github.com/gatewarden/gatewarden/update/release"
)

// RuleLost ends an update on whose release a sealed secret would be lost.
const RuleLost = "secrets"

// KeeperConfig is what a Keeper needs. All fields must be set.
type KeeperConfig struct {
	FS  *fsx.FS
	Dir string // of the sealed files
	TPM *tpm.TPM
	// Slots is the root helper's account of releases, epoch and counter.
	Slots func(context.Context) (helperwire.Slots, error)
	// Running is what the owner signed of the release that runs.
	Running func(context.Context, helperwire.Slots) (*release.Release, error)
	// Key is the PCR-policy key of a product, as the owner published it.
	Key func(ctx context.Context, product string) (crypto.PublicKey, error)
	// SecureBoot says whether it is verified to be on in this boot.
	SecureBoot func() bool
	Log        *slog.Logger
}

// Keeper is a Store whose secrets follow the releases of this machine: new ones are
// sealed to the release that runs and to the epoch that was reached, and an update
// carries all of them over (it is an update.Resealer). Safe for concurrent use.
type Keeper struct {
	*Store
	c KeeperConfig
}

// NewKeeper opens the store.
func NewKeeper(c KeeperConfig) (*Keeper, error) {
	if c.Slots == nil || c.Running == nil || c.Key == nil || c.SecureBoot == nil {
		return nil, errors.New("keep secrets: the configuration is not complete")
	}
	k := &Keeper{c: c}
	var err error
	k.Store, err = New(Config{FS: c.FS, Dir: c.Dir, TPM: c.TPM, Policy: k.policy, Signed: k.signed, Log: c.Log})
	return k, err
}

// slots asks the helper; secrets need a counter that can be believed.
func (k *Keeper) slots(ctx context.Context) (helperwire.Slots, counter.Record, error) {
	var record counter.Record
	s, err := k.c.Slots(ctx)
	if err != nil {
		return s, record, err
	}
	if s.Counter != "ok" {
		return s, record, fmt.Errorf("the epoch counter can't be sealed to: %s; the helper's log says why", s.Counter)
	}
	return s, record, json.Unmarshal(s.CounterRecord, &record)
}

// count reads the chip's counter.
func (k *Keeper) count(ctx context.Context, record counter.Record) (uint64, error) {
	var value uint64
	err := k.c.TPM.Do(ctx, "read epoch counter", func(c *tpm.Chip) (err error) {
		value, err = counter.Read(c, record)
		return err
	})
	if err != nil {
		return 0, err
	}
	return value, nil
}

func counterAt(record counter.Record, value uint64) seal.Counter {
	return seal.Counter{Index: record.Index, Name: record.Name(), Value: value}
}

// policy is to what a new secret is sealed.
func (k *Keeper) policy(ctx context.Context) (seal.Policy, error) {
	s, record, err := k.slots(ctx)
	if err != nil {
		return seal.Policy{}, err
	}
	r, err := k.c.Running(ctx, s)
	if err != nil {
		return seal.Policy{}, err
	}
	value, err := k.count(ctx, record)
	if err != nil {
		return seal.Policy{}, err
	}
	p, err := k.policyFor(ctx, r, s.Epoch)
	p.Counter = counterAt(record, value)
	return p, err
}

// policyFor seals to a release that runs, at an epoch.
func (k *Keeper) policyFor(ctx context.Context, r *release.Release, epoch uint64) (seal.Policy, error) {
	p := seal.Policy{SecureBoot: k.c.SecureBoot(), Ref: tpmpolicy.Ref{Product: r.Product, Channel: r.Channel, Epoch: epoch}}
	if len(r.PCRPolicies) == 0 {
		return k.unsigned(ctx, r, p)
	}
	var err error
	if p.Key, err = k.c.Key(ctx, r.Product); err != nil {
		return seal.Policy{}, err
	}
	p.Ref.PCRs, err = k.choose(ctx, r, p)
	return p, err
}

// choose takes the largest set of PCRs whose values now the release approves.
func (k *Keeper) choose(ctx context.Context, r *release.Release, p seal.Policy) ([]int, error) {
	fingerprint, err := tpmpolicy.Fingerprint(p.Key)
	if err != nil {
		return nil, err
	}
	var best []int
	for _, one := range r.PCRPolicies {
		if one.Epoch != p.Ref.Epoch || one.Until != "" || one.Key != release.Digest(fingerprint) ||
			len(one.PCRs) <= len(best) || tpmpolicy.CheckPCRs(one.PCRs, p.SecureBoot) != nil {
			continue
		}
		now, err := k.measured(ctx, one.PCRs)
		if err != nil {
			return nil, err
		}
		if now == tpmpolicy.Digest(one.Policy) {
			best = one.PCRs
		}
	}
	if best == nil {
		return nil, fmt.Errorf("release %s approves no boot like this one (%d PCR policies, Secure Boot verified: %t): `gatewarden attest` says what differs",
			r.Version, len(r.PCRPolicies), p.SecureBoot)
	}
	return best, nil
}

// measured is the PCR policy that this boot satisfies.
func (k *Keeper) measured(ctx context.Context, pcrs []int) (tpmpolicy.Digest, error) {
	values, err := k.values(ctx, pcrs)
	if err != nil {
		return tpmpolicy.Digest{}, err
	}
	return tpmpolicy.Digest{}.PCR(values)
}

func (k *Keeper) values(ctx context.Context, pcrs []int) (map[int]tpmpolicy.Digest, error) {
	now, err := k.c.TPM.ReadPCRs(ctx, pcrs)
	values := make(map[int]tpmpolicy.Digest, len(now))
	for pcr, value := range now {
		values[pcr] = value
	}
	return values, err
}

// CoversRoot says whether what runs was booted with a hash of its root file system.
func (k *Keeper) CoversRoot(ctx context.Context) (bool, error) {
	s, _, err := k.slots(ctx)
	if err != nil {
		return false, err
	}
	r, err := k.c.Running(ctx, s)
	return err == nil && coversRoot(r), err
}

// signed are the PCR policies of the release that runs. What is wrong with the counter
// the chip says, where it matters.
func (k *Keeper) signed(ctx context.Context) ([]tpmpolicy.Signed, error) {
	s, err := k.c.Slots(ctx)
	if err != nil {
		return nil, err
	}
	r, err := k.c.Running(ctx, s)
	if err != nil {
		return nil, err
	}
	return Signed(r), nil
}

// Prepare holds that every secret opens on trial, and seals each for the epoch to
// come. One that is damaged or shut for good already is not the release's fault.
// A *policy.Refusal by RuleLost says that one would be lost.
func (k *Keeper) Prepare(ctx context.Context, r *release.Release) error {
	items, err := k.List()
	if err != nil || len(items) == 0 {
		return err
	}
	for _, item := range items {
		if err := k.opens(ctx, r, item); err != nil {
			return err
		}
	}
	s, record, err := k.slots(ctx)
	if err != nil {
		return err
	}
	epoch := max(s.Epoch, r.Epoch)
	next, err := k.policyFor(ctx, r, epoch)
	if err != nil {
		return err
	}
	next.Counter = counterAt(record, record.Initial+epoch)
	err = k.Store.Prepare(ctx, next)
	if errors.Is(err, tpm.ErrPolicy) || errors.Is(err, tpm.ErrDamaged) || errors.Is(err, tpm.ErrReplaced) {
		return &policy.Refusal{Rule: RuleLost, Text: err.Error() + "; `gatewarden secrets rm` gives it up"}
	}
	return err
}

// opens holds that a secret is not lost in r. One that shuts at "ready" did so before
// the agent came; r must approve the boot that it was open in, which is this one.
func (k *Keeper) opens(ctx context.Context, r *release.Release, item Item) error {
	_, err := k.Get(ctx, item.Name)
	var refused *seal.Refusal
	if !errors.As(err, &refused) || refused.Rule != "pcr" && refused.Rule != "unsigned" {
		return nil
	}
	if item.Until != "" && refused.Rule == "pcr" {
		now, err := k.measured(ctx, item.PCRs)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(r.PCRPolicies, func(p release.PCRPolicy) bool {
			return p.Epoch == item.Epoch && p.Until == "" && tpmpolicy.Digest(p.Policy) == now
		}) {
			return nil
		}
	}
	return &policy.Refusal{Rule: RuleLost, Text: fmt.Sprintf("Secret %s does not open in it: %s.", item.Name, refused.Text)}
}

// Settle ends the re-seal, and seals again to a PCR-policy key that replaced the
// one before, or to this boot alone where the boot before was named too.
func (k *Keeper) Settle(ctx context.Context, r *release.Release) error {
	items, err := k.List()
	if err != nil || len(items) == 0 {
		return err
	}
	_, record, err := k.slots(ctx)
	if err != nil {
		return err
	}
	value, err := k.count(ctx, record)
	if err != nil {
		return err
	}
	if err := k.Store.Settle(value); err != nil {
		return err
	}
	var der []byte
	if len(r.PCRPolicies) > 0 {
		key, err := k.c.Key(ctx, r.Product)
		if err != nil {
			return err
		}
		if der, err = tpmpolicy.MarshalKey(key); err != nil {
			return err
		}
	}
	return k.resealIf(ctx, func(i Item) bool { return i.Boots > 0 || !bytes.Equal(i.Key, der) })
}

// resealIf seals all anew, if one of them needs it.
func (k *Keeper) resealIf(ctx context.Context, needs func(Item) bool) error {
	items, err := k.List()
	if err != nil || !slices.ContainsFunc(items, func(i Item) bool { return i.Damaged == nil && needs(i) }) {
		return err
	}
	return k.Reseal(ctx)
}

// Tidy ends, at a start, what a power cut or a roll back left of a re-seal. What was
// sealed for an epoch that will not be reached is forgotten, unless a commit is under
// way or the counter is still behind the record.
func (k *Keeper) Tidy(ctx context.Context, committing bool) error {
	s, record, err := k.slots(ctx)
	if err != nil {
		return err
	}
	value, err := k.count(ctx, record)
	if err != nil {
		return err
	}
	if committing || value < record.Initial+s.Epoch {
		return k.Store.Settle(value)
	}
	if err := k.Abort(value); err != nil {
		return err
	}
	// The next slot's boot was named, and did not stay.
	return k.resealIf(ctx, func(i Item) bool { return i.Boots > len(phasePaths()[0]) })
}
