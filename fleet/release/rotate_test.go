package release_test

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/fleet/release"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
)

// keyOf returns the first key of a role.
func (a *author) keyOf(role string) release.Key {
	a.t.Helper()
	keys, err := a.repo.Keys()
	must(a.t, err)
	for _, k := range keys {
		if k.Role == role {
			return k
		}
	}
	a.t.Fatalf("no key of %s", role)
	return release.Key{}
}

func TestADeviceFollowsTheRotationOfEveryKey(t *testing.T) {
	a := newAuthor(t)
	a.build("1.0.0", 1)
	a.sign()
	a.publish()
	follower := a.device(a.root(1))
	must(t, follower.Refresh(t.Context()))
	for i, role := range []string{release.Root, release.Targets, release.Releases, release.Snapshot, release.Timestamp} {
		old := a.keyOf(role)
		must(t, a.repo.Rotate(role, old.ID[:8]))
		must(t, os.Remove(old.File))
		a.reopen()
		version := []string{"1.1.0", "1.2.0", "1.3.0", "1.4.0", "1.5.0"}[i]
		built := a.build(version, 1)
		a.sign()
		a.publish()
		for name, d := range map[string]*device{"a follower": follower, "a new device": a.device(a.root(1))} {
			if err := d.Refresh(t.Context()); err != nil {
				t.Fatalf("%s, after the key of %s changed: %v", name, role, err)
			}
			if _, err := d.Target(t.Context(), built.Target); err != nil {
				t.Fatalf("%s, after the key of %s changed: %v", name, role, err)
			}
		}
		secondOpinion(t, a)
	}
}

func TestOneRootKeyAloneChangesNoRoot(t *testing.T) {
	a := newAuthor(t)
	for _, n := range []string{"1", "2"} {
		must(t, os.Rename(filepath.Join(a.dir, "keys", "root-"+n+".pem"), filepath.Join(t.TempDir(), "away")))
	}
	before := tree(t, filepath.Join(a.dir, "metadata"))
	a.refused("2 of its keys must sign", a.repo.RenewRoot)
	a.refused("2 of its keys must sign", func() error { return a.repo.Rotate(release.Timestamp, "") })
	if !same(before, tree(t, filepath.Join(a.dir, "metadata"))) {
		t.Error("metadata has changed")
	}
}

// What is done every day needs no key that is off line.
func TestReleasesArePublishedWithoutTheRootsKeys(t *testing.T) {
	a := newAuthor(t)
	a.sign()
	safe := t.TempDir()
	for _, name := range []string{"root-1.pem", "root-2.pem", "root-3.pem", "targets-1.pem"} {
		must(t, os.Rename(filepath.Join(a.dir, "keys", name), filepath.Join(safe, name)))
	}
	a.build("1.0.0", 1)
	a.sign()
	a.publish()
	_, err := a.repo.Policy(release.PolicyOptions{Fleet: "lab"})
	must(t, err)
	a.refused("sign targets", func() error { _, err := a.repo.Sign(); return err })
	a.reopen(filepath.Join(a.dir, "keys"), safe)
	a.sign()
	a.publish()
}

func TestBothPolicyKeysSignWhileOneReplacesTheOther(t *testing.T) {
	a := newAuthor(t)
	first := a.keyOf("pcr edge")
	must(t, a.repo.RotatePolicyKey("edge"))
	a.reopen()
	second := a.keyOf("pcr edge")
	if first.ID == second.ID {
		t.Fatal("the key is the same")
	}
	signers := func(version string) map[string]int {
		a.build(version, 1)
		list, err := a.repo.List()
		must(t, err)
		count := make(map[string]int)
		for _, p := range list[len(list)-1].PCRPolicies {
			count[p.Key.String()]++
		}
		return count
	}
	if got := signers("1.0.0"); got[first.ID] != 6 || got[second.ID] != 6 {
		t.Errorf("policies by key: %v", got)
	}
	must(t, a.repo.DropPolicyKey("edge", first.ID[:8]))
	if got := signers("1.1.0"); got[first.ID] != 0 || got[second.ID] != 6 {
		t.Errorf("policies by key: %v", got)
	}
	a.refused("at least two", func() error { return a.repo.DropPolicyKey("edge", second.ID) })
	must(t, a.repo.RotatePolicyKey("edge"))
	if third := a.keyOf("pcr edge"); third.ID == first.ID {
		t.Error("a dropped key came back")
	}
	a.sign()
	a.publish()
}

// The policy key itself verifies each policy, for its own epoch and product only,
// and those of secrets that shut at "ready" never for a path that comes to it.
func TestPCRPoliciesCountForWhatTheySayOnly(t *testing.T) {
	a := newAuthor(t)
	a.build("1.0.0", 3)
	data, err := os.ReadFile(a.keyOf("pcr edge").File)
	must(t, err)
	block, _ := pem.Decode(data)
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	must(t, err)
	public := private.(*ecdsa.PrivateKey).Public()
	list, err := a.repo.List()
	must(t, err)
	for _, p := range list[0].PCRPolicies {
		if p.Until == "ready" && strings.Contains(p.Phases, "ready") {
			t.Errorf("a policy until ready is signed for %s", p.Phases)
		}
		s := tpmpolicy.Signed{PCRs: p.PCRs, Key: tpmpolicy.Digest(p.Key), Policy: tpmpolicy.Digest(p.Policy), Signature: p.Signature}
		for _, epoch := range []uint64{1, 2, 3, 4} {
			ref, err := tpmpolicy.Ref{Product: "edge", Channel: "stable", Epoch: epoch, PCRs: p.PCRs, Until: p.Until}.Digest()
			must(t, err)
			if err := s.Verify(public, ref[:]); (err == nil) != (epoch == p.Epoch) {
				t.Errorf("the policy of epoch %d counts for %d: %v", p.Epoch, epoch, err)
			}
		}
	}
}
