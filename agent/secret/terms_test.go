package secret_test

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/agent/secret"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm/seal"
	"github.com/gatewarden/gatewarden/update/release"
)

// ready is what a boot measures when it is ready.
func ready(values map[int]tpmpolicy.Digest) map[int]tpmpolicy.Digest {
	later, word := maps.Clone(values), sha256.Sum256([]byte("ready"))
	before := values[11]
	later[11] = sha256.Sum256(append(before[:], word[:]...))
	return later
}

func (g *gateway) becomesReady() {
	g.t.Helper()
	if err := g.power.Extend(context.Background(), 11, sha256.Sum256([]byte("ready"))); err != nil {
		g.t.Fatal(err)
	}
}

// phased is a release that approves both phases of a kernel's boot, the first one for
// secrets that shut when it is ready, too.
func (g *gateway) phased(version string, epoch uint64, kernel string) *release.Release {
	g.approved = []map[int]tpmpolicy.Digest{boot(kernel), ready(boot(kernel))}
	r := g.release(version, epoch)
	for e := uint64(1); e <= epoch; e++ {
		ref := g.policy(e).Ref
		ref.Until = "ready"
		s, err := tpmpolicy.Approve(g.key, ref, boot(kernel))
		if err != nil {
			g.t.Fatal(err)
		}
		r.PCRPolicies = append(r.PCRPolicies, release.PCRPolicy{
			Epoch: e, Until: "ready", Phases: "sysinit", PCRs: s.PCRs, Key: release.Digest(s.Key), Policy: release.Digest(s.Policy), Signature: s.Signature,
		})
	}
	return r
}

func TestSecretUntilReadyOpensBeforeItAndNotAfter(t *testing.T) {
	g := start(t)
	r := g.phased("1.0.0", 1, "v1")
	g.becomesReady() // as when the agent runs
	k := g.keeper(r, 1, nil)
	if err := k.Put(t.Context(), "early", secret.Terms{Until: "ready"}, []byte("it")); err != nil {
		t.Fatal(err)
	}
	put(t, k.Store, "usual", "always")
	shut := func(k *secret.Keeper) {
		t.Helper()
		var refused *seal.Refusal
		if _, err := k.Get(t.Context(), "early"); !errors.As(err, &refused) || refused.Rule != "pcr" {
			t.Errorf("after ready: %v", err)
		}
		wantSecret(t, k.Store, "usual", "always")
	}
	shut(k)
	g.reboot("v1")
	k = g.keeper(r, 1, nil)
	wantSecret(t, k.Store, "early", "it")
	wantSecret(t, k.Store, "usual", "always")
	g.becomesReady()
	shut(k)

	for _, until := range []string{"sysinit", "final", "x"} {
		if err := k.Put(t.Context(), "x", secret.Terms{Until: until}, []byte("x")); err == nil {
			t.Errorf("until %s was taken", until)
		}
	}
	plain := g.release("1.0.0", 1) // names no phase before ready
	if err := g.keeper(plain, 1, nil).Put(t.Context(), "x", secret.Terms{Until: "ready"}, []byte("x")); err == nil || !strings.Contains(err.Error(), "no signed policy") {
		t.Errorf("it would never open: %v", err)
	}
}

// On trial such a secret is shut already: what counts is that the release approves
// this boot, and has a policy for it.
func TestReleaseThatKeepsASecretUntilReadyIsTaken(t *testing.T) {
	g := start(t)
	r := g.phased("1.0.0", 1, "v1")
	g.becomesReady()
	if err := g.keeper(r, 1, nil).Put(t.Context(), "early", secret.Terms{Until: "ready"}, []byte("it")); err != nil {
		t.Fatal(err)
	}
	good := g.phased("2.0.0", 1, "version 2")
	bare := g.release("2.0.0", 1)
	other := g.phased("2.0.0", 1, "another kernel")
	raises := g.phased("2.0.0", 2, "version 2")
	g.reboot("version 2")
	g.becomesReady()
	for name, c := range map[string]struct {
		r    *release.Release
		want string
	}{"with a policy for it": {good, ""}, "without": {bare, "no signed policy"}, "of another boot": {other, "Secret early"}, "of a new epoch": {raises, "another epoch"}} {
		err := g.keeper(c.r, 1, nil).Prepare(t.Context(), c.r)
		var refused *policy.Refusal
		if (c.want == "") != (err == nil) || err != nil && (!errors.As(err, &refused) || refused.Rule != secret.RuleLost || !strings.Contains(refused.Text, c.want)) {
			t.Errorf("a release %s: %v", name, err)
		}
	}
	if err := g.keeper(good, 1, nil).Settle(t.Context(), good); err != nil {
		t.Error(err)
	}
	g.key = newKey(t) // and a new PCR-policy key
	rotated := g.phased("3.0.0", 1, "version 2")
	rotated.PCRPolicies = append(rotated.PCRPolicies, good.PCRPolicies...)
	if err := g.keeper(rotated, 1, nil).Settle(t.Context(), rotated); err != nil {
		t.Error(err)
	}
	g.reboot("version 2")
	wantSecret(t, g.keeper(rotated, 1, nil).Store, "early", "it")
}

func TestRecoveryKeyOpensOneSecretInAnyBootAndLastsThroughAReseal(t *testing.T) {
	g := newGateway(t, "v1")
	off := newKey(t)
	s := g.store(nil)
	for name, key := range map[string]crypto.PublicKey{"a": off.Public(), "b": off.Public(), "c": nil} {
		if err := s.Put(t.Context(), name, secret.Terms{Unit: "a.service", Recovery: key}, []byte("of "+name)); err != nil {
			t.Fatal(err)
		}
	}
	old := g.sign(off, s, "a")
	if err := s.Reseal(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.reboot("tampered kernel")
	s = g.store(nil)
	if got, err := s.Get(t.Context(), "a"); err == nil {
		t.Fatalf("an altered boot gets %q", got)
	}
	signature := g.sign(off, s, "a")
	if got, err := s.Recover(t.Context(), "a", signature); err != nil || string(got) != "of a" {
		t.Errorf("got %q, %v", got, err)
	}
	for name, try := range map[string]struct {
		secret    string
		signature []byte
	}{
		"a signature for another secret": {"b", signature}, "one for the file before": {"a", old}, "of another key": {"a", g.sign(newKey(t), s, "a")},
		"none": {"a", nil}, "a secret without a recovery key": {"c", signature}, "no secret": {"d", signature}, "a path": {"../secrets/a", signature},
	} {
		if got, err := s.Recover(t.Context(), try.secret, try.signature); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
	if items, err := s.List(); err != nil || items[0].Unit != "a.service" {
		t.Errorf("%v, %v", items, err)
	}
}

// sign is what happens where the recovery key is.
func (g *gateway) sign(key crypto.Signer, s *secret.Store, name string) []byte {
	g.t.Helper()
	digest, err := s.RecoveryDigest(name)
	if err != nil {
		g.t.Fatal(err)
	}
	signature, err := key.Sign(nil, digest, crypto.SHA256)
	if err != nil {
		g.t.Fatal(err)
	}
	return signature
}
