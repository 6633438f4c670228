package secret

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm/seal"
	"github.com/gatewarden/gatewarden/update/release"
)

// A release without PCR policies opens nothing by a signature. Its reference values
// tell what booting it measures, so that secrets can be sealed to these boots as they
// are: to the one that runs, and before an update to that of the next slot, too
// (ADR 017).

// phasePaths are those in which such secrets open, by kind of machine: with an initrd
// that measures phases, and without.
func phasePaths() [][][]string {
	initrd := []string{"enter-initrd", "leave-initrd"}
	return [][][]string{
		{{"sysinit"}, {"sysinit", "ready"}},
		{append(initrd, "sysinit"), append(initrd, "sysinit", "ready")},
	}
}

type boots []map[int]tpmpolicy.Digest

// unsigned completes a policy for the boot that runs, of which r must know.
func (k *Keeper) unsigned(ctx context.Context, r *release.Release, p seal.Policy) (seal.Policy, error) {
	p.Ref.PCRs = unsignedPCRs(p.SecureBoot)
	now, err := k.values(ctx, p.Ref.PCRs)
	if err != nil {
		return seal.Policy{}, err
	}
	for _, slot := range []string{"a", "b"} {
		for _, phases := range phasePaths() {
			if here := predict(r, slot, p, phases); here.has(now) {
				p.Literal = here
				return p, nil
			}
		}
	}
	return seal.Policy{}, fmt.Errorf("release %s carries no PCR policies, and its reference values tell of no boot like this one", r.Version)
}

// unsignedPCRs is the set for which a boot is predicted the same as for signatures.
func unsignedPCRs(secureBoot bool) []int {
	if secureBoot {
		return []int{11, 12, 13}
	}
	return []int{4, 11, 12, 13}
}

// predict says what booting r in a slot measures, at the end of each of these phases;
// nothing if r does not tell.
func predict(r *release.Release, slot string, p seal.Policy, phases [][]string) boots {
	var list []attest.Release // one for each slot
	if json.Unmarshal(r.Reference, &list) != nil {
		list = make([]attest.Release, 1)
		if json.Unmarshal(r.Reference, &list[0]) != nil {
			return nil
		}
	}
	var all boots
	for _, one := range list {
		boot, ok := one.Boot()
		if !ok || one.For != "" && one.For != slot {
			continue
		}
		boot.SecureBoot = p.SecureBoot
		for _, path := range phases {
			values := make(map[int]tpmpolicy.Digest)
			predicted := boot.PCRs(path)
			for _, pcr := range p.Ref.PCRs {
				values[pcr] = tpmpolicy.Digest(predicted[pcr])
			}
			all = append(all, values)
		}
	}
	return all
}

func (b boots) has(now map[int]tpmpolicy.Digest) bool {
	return slices.ContainsFunc(b, func(one map[int]tpmpolicy.Digest) bool { return maps.Equal(one, now) })
}

// Foresee seals what no signature opens, or will open, for the boot of r in slot
// beside that of now. r is what the owner signed. A *policy.Refusal by RuleLost says
// that a secret would be lost.
func (k *Keeper) Foresee(ctx context.Context, r *release.Release, slot string) error {
	items, err := k.List()
	if err != nil {
		return err
	}
	needs := func(i Item) bool { return i.Damaged == nil && (i.Boots > 0 || len(r.PCRPolicies) == 0) }
	if !slices.ContainsFunc(items, needs) {
		return nil
	}
	p, err := k.policy(ctx)
	if err != nil {
		return err
	}
	if p, err = k.both(ctx, p, r, slot); err != nil {
		return err
	}
	for _, item := range items {
		if !needs(item) {
			continue
		}
		if item.Until != "" {
			return &policy.Refusal{Rule: RuleLost, Text: fmt.Sprintf("Secret %s shuts before the agent starts and can't be sealed for a release without PCR policies.", item.Name)}
		}
		if err := k.resealTo(ctx, item.Name, p); err != nil {
			return err
		}
	}
	return nil
}

// NamesBoots says whether a secret is sealed to boots as they are.
func (k *Keeper) NamesBoots() (bool, error) {
	items, err := k.List()
	return slices.ContainsFunc(items, func(i Item) bool { return i.Boots > 0 }), err
}

// both makes of the policy of now one for this boot and for the next.
func (k *Keeper) both(ctx context.Context, p seal.Policy, r *release.Release, slot string) (seal.Policy, error) {
	if p.Key != nil { // what runs is signed; this boot opens it as it is
		p.Key, p.Ref.PCRs = nil, unsignedPCRs(p.SecureBoot)
		now, err := k.values(ctx, p.Ref.PCRs)
		if err != nil {
			return seal.Policy{}, err
		}
		p.Literal = boots{now}
	}
	next := predict(r, slot, p, slices.Concat(phasePaths()...))
	if len(next) == 0 {
		return seal.Policy{}, &policy.Refusal{Rule: RuleLost, Text: fmt.Sprintf("Release %s has neither PCR policies nor reference values for slot %s: what is sealed would not open in it.", r.Version, slot)}
	}
	p.Literal = append(p.Literal, next...)
	return p, nil
}
