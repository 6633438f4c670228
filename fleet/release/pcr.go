package release

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/update/release"
)

// pcrSets are the sets of PCRs that devices seal to: with the boot chain where there
// is no Secure Boot (design, section 7).
func pcrSets() [][]int { return [][]int{{11, 12, 13}, {4, 11, 12, 13}} }

// approve signs what each of the release's boots measures in each phase path, for
// secrets of every epoch up to its own, with each PCR-policy key of the product.
func (r *Repo) approve(rel *release.Release, boots []attest.Boot, phases []string) ([]release.PCRPolicy, error) {
	keys, err := r.policySigners(rel.Product)
	if err != nil {
		return nil, err
	}
	each := uint64(0)
	for _, path := range phases {
		each += uint64(len(refs(rel, 1, path)) * len(keys) * len(boots))
	}
	if rel.Epoch > release.MaxPolicies/each {
		return nil, fmt.Errorf("%d epochs with %d PCR policies each: a release carries at most %d", rel.Epoch, each, release.MaxPolicies)
	}
	var list []release.PCRPolicy
	for _, boot := range boots {
		some, err := approveBoot(rel, keys, boot, phases)
		if err != nil {
			return nil, err
		}
		list = append(list, some...)
	}
	return list, nil
}

func approveBoot(rel *release.Release, keys []keyPair, boot attest.Boot, phases []string) ([]release.PCRPolicy, error) {
	var list []release.PCRPolicy
	for epoch := uint64(1); epoch <= rel.Epoch; epoch++ {
		for _, path := range phases {
			for _, ref := range refs(rel, epoch, path) {
				for _, k := range keys {
					one, err := approveOne(k, ref, boot, path)
					if err != nil {
						return nil, err
					}
					list = append(list, one)
				}
			}
		}
	}
	return list, nil
}

// refs are the secrets that may open at the end of a phase path. One that was sealed
// until "ready" must not open in a path that comes to it.
func refs(rel *release.Release, epoch uint64, path string) []tpmpolicy.Ref {
	var list []tpmpolicy.Ref
	for _, set := range pcrSets() {
		ref := tpmpolicy.Ref{Product: rel.Product, Channel: rel.Channel, Epoch: epoch, PCRs: set}
		list = append(list, ref)
		if !slices.Contains(strings.Split(path, ":"), "ready") {
			ref.Until = "ready"
			list = append(list, ref)
		}
	}
	return list
}

func approveOne(k keyPair, ref tpmpolicy.Ref, boot attest.Boot, path string) (release.PCRPolicy, error) {
	values := make(map[int]tpmpolicy.Digest)
	// Secrets of machines without Secure Boot are sealed to PCR 4 too, those of the
	// others are not (docs/adr/010): each set has one way to boot.
	boot.SecureBoot = !slices.Contains(ref.PCRs, 4)
	predicted := boot.PCRs(strings.Split(path, ":"))
	for _, pcr := range ref.PCRs {
		value, ok := predicted[pcr]
		if !ok {
			return release.PCRPolicy{}, fmt.Errorf("predict PCR %d: unknown", pcr)
		}
		values[pcr] = tpmpolicy.Digest(value)
	}
	s, err := tpmpolicy.Approve(steady{k.signer}, ref, values)
	if err != nil {
		return release.PCRPolicy{}, err
	}
	return release.PCRPolicy{
		Epoch: ref.Epoch, Until: ref.Until, Phases: path, PCRs: s.PCRs,
		Key: release.Digest(s.Key), Policy: release.Digest(s.Policy), Signature: s.Signature,
	}, nil
}

// checkPolicies verifies the PCR policies of a release as a chip would.
func (r *Repo) checkPolicies(rel *release.Release) error {
	keys, err := r.publicPolicyKeys(rel.Product)
	if err != nil && len(rel.PCRPolicies) > 0 {
		return err
	}
	for i, p := range rel.PCRPolicies {
		key, ok := keys[p.Key]
		if !ok && slices.Contains(r.set.Products[rel.Product].Dropped, p.Key.String()) {
			continue
		}
		if !ok {
			return fmt.Errorf("pcr_policies[%d]: it is by a key %.12s that is not in %s", i, p.Key, policyKeysPath(rel.Product))
		}
		ref, err := tpmpolicy.Ref{Product: rel.Product, Channel: rel.Channel, Epoch: p.Epoch, PCRs: p.PCRs, Until: p.Until}.Digest()
		if err != nil {
			return fmt.Errorf("pcr_policies[%d]: %w", i, err)
		}
		s := tpmpolicy.Signed{PCRs: p.PCRs, Key: tpmpolicy.Digest(p.Key), Policy: tpmpolicy.Digest(p.Policy), Signature: p.Signature}
		if err := s.Verify(key, ref[:]); err != nil {
			return fmt.Errorf("pcr_policies[%d]: %w", i, err)
		}
	}
	return nil
}

// Products names the products of the repository.
func (r *Repo) Products() []string { return sortedKeys(r.set.Products) }

// AddProduct makes a PCR-policy key for another product.
func (r *Repo) AddProduct(name string) error {
	err := checkWord("product", name)
	if err == nil && len(r.set.Products[name].Keys) > 0 {
		err = fmt.Errorf("%s is there already", name)
	}
	if err == nil {
		err = r.newPolicyKey(name)
	}
	if err == nil {
		err = r.saveSettings()
	}
	if err != nil {
		return fmt.Errorf("add product: %w", err)
	}
	return nil
}

// RotatePolicyKey makes a new PCR-policy key of a product. The old ones go on to
// sign, so that devices open what they sealed, and seal it to the new key when they
// confirm their next release. DropPolicyKey ends that.
func (r *Repo) RotatePolicyKey(name string) error {
	if len(r.set.Products[name].Keys) == 0 {
		return fmt.Errorf("rotate PCR-policy key: there is no product %q", name)
	}
	if err := errors.Join(r.newPolicyKey(name), r.saveSettings()); err != nil {
		return fmt.Errorf("rotate PCR-policy key: %w", err)
	}
	return nil
}

// DropPolicyKey takes a PCR-policy key away, by the beginning of its fingerprint.
// What a device still has sealed to it does not open in releases built from now on.
func (r *Repo) DropPolicyKey(name, id string) error {
	p := r.set.Products[name]
	left := slices.DeleteFunc(slices.Clone(p.Keys), func(k string) bool { return strings.HasPrefix(k, id) })
	if len(id) < minID || len(left) != len(p.Keys)-1 || len(left) == 0 {
		return fmt.Errorf("drop PCR-policy key: %q must name one of at least two keys of %s, by %d hex digits or more", id, name, minID)
	}
	p.Dropped = append(p.Dropped, slices.DeleteFunc(slices.Clone(p.Keys), func(k string) bool { return slices.Contains(left, k) })...)
	p.Keys = left
	r.set.Products[name] = p
	if err := errors.Join(r.stagePolicyKeys(name), r.saveSettings()); err != nil {
		return fmt.Errorf("drop PCR-policy key: %w", err)
	}
	return nil
}

// newPolicyKey makes the next key of a product. A number that was used is never used
// again: its key may have been dropped for a reason.
func (r *Repo) newPolicyKey(name string) error {
	p := r.set.Products[name]
	id, err := r.makePolicyKey(name, p.Made+1)
	if err != nil {
		return err
	}
	r.set.Products[name] = product{Keys: append([]string{id}, p.Keys...), Dropped: p.Dropped, Made: p.Made + 1}
	return r.stagePolicyKeys(name)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
