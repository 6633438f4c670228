package secret_test

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/agent/secret"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/helperwire"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/update/release"
)

// release is what the owner published for the boots that g's owner approved.
func (g *gateway) release(version string, epoch uint64) *release.Release {
	g.t.Helper()
	g.epoch = epoch
	r := &release.Release{Product: "edge", Channel: "stable", Version: version, Epoch: epoch}
	for e := uint64(1); e <= epoch; e++ {
		for _, values := range g.approved {
			s, err := tpmpolicy.Approve(g.key, g.policy(e).Ref, values)
			if err != nil {
				g.t.Fatal(err)
			}
			r.PCRPolicies = append(r.PCRPolicies, release.PCRPolicy{
				Epoch: e, Phases: "sysinit", PCRs: s.PCRs, Key: release.Digest(s.Key), Policy: release.Digest(s.Policy), Signature: s.Signature,
			})
		}
	}
	return r
}

// keeper opens the secrets of a machine that runs r and has reached an epoch.
func (g *gateway) keeper(r *release.Release, reached uint64, change func(*secret.KeeperConfig)) *secret.Keeper {
	g.t.Helper()
	record, err := json.Marshal(g.record)
	if err != nil {
		g.t.Fatal(err)
	}
	c := secret.KeeperConfig{
		FS: &fsx.FS{}, Dir: g.dir + "/secrets", TPM: g.chip,
		Slots: func(context.Context) (helperwire.Slots, error) {
			return helperwire.Slots{Product: "edge", Channel: "stable", Version: r.Version, Epoch: reached, Counter: "ok", CounterRecord: record}, nil
		},
		Running:    func(context.Context, helperwire.Slots) (*release.Release, error) { return r, nil },
		Key:        func(context.Context, string) (crypto.PublicKey, error) { return g.key.Public(), nil },
		SecureBoot: func() bool { return false }, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	if change != nil {
		change(&c)
	}
	k, err := secret.NewKeeper(c)
	if err != nil {
		g.t.Fatal(err)
	}
	return k
}

// start gives the counter the value of epoch 1, as the helper does at its start.
func start(t *testing.T) *gateway {
	g := newGateway(t, "v1")
	g.raise(2) // the tests' epochs count from 1 at the counter's beginning, the helper's from 0
	return g
}

// TestSecretsFollowAReleaseThatRaisesTheEpoch, and the old files stay shut.
func TestSecretsFollowAReleaseThatRaisesTheEpoch(t *testing.T) {
	g := start(t)
	k := g.keeper(g.release("1.0.0", 1), 1, nil)
	put(t, k.Store, "a", "secret of a")
	old := files(t, g)

	g.approved = append(g.approved, boot("version 2"))
	r := g.release("2.0.0", 2)
	g.reboot("version 2")
	k = g.keeper(r, 1, nil)
	if err := k.Prepare(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	wantSecret(t, k.Store, "a", "secret of a")
	g.raise(3)
	k = g.keeper(r, 2, nil)
	wantSecret(t, k.Store, "a", "secret of a")
	for range 2 { // it may be repeated
		if err := k.Settle(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	wantSecret(t, k.Store, "a", "secret of a")
	restore(t, old)
	if _, err := k.Get(t.Context(), "a"); !errors.Is(err, tpm.ErrPolicy) {
		t.Errorf("the file of epoch 1: %v", err)
	}
}

// TestReleaseInWhichASecretStaysShutIsRefused, before anything is committed; a
// damaged file is not the release's fault as long as the epoch stays.
func TestReleaseInWhichASecretStaysShutIsRefused(t *testing.T) {
	g := start(t)
	k := g.keeper(g.release("1.0.0", 1), 1, nil)
	put(t, k.Store, "a", "x")
	bare := &release.Release{Product: "edge", Channel: "stable", Version: "2.0.0", Epoch: 1}
	var refused *policy.Refusal
	if err := g.keeper(bare, 1, nil).Prepare(t.Context(), bare); !errors.As(err, &refused) || refused.Rule != secret.RuleLost {
		t.Errorf("a release without PCR policies: %v", err)
	}
	r := g.release("2.0.0", 2) // approves the boot of release 1 alone
	g.reboot("version 2")
	if err := g.keeper(r, 1, nil).Prepare(t.Context(), r); !errors.As(err, &refused) || !strings.Contains(refused.Text, "Secret a") {
		t.Errorf("a release that approves another boot: %v", err)
	}
	g.reboot("v1")
	if err := os.WriteFile(filepath.Join(g.dir, "secrets", "a.sealed"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := g.keeper(r, 1, nil).Prepare(t.Context(), r); !errors.As(err, &refused) || !strings.Contains(refused.Text, "secrets rm") {
		t.Errorf("a damaged secret would be lost: %v", err)
	}
	if err := g.keeper(r, 1, nil).Remove("a"); err != nil {
		t.Fatal(err)
	}
	if err := g.keeper(bare, 1, nil).Prepare(t.Context(), bare); err != nil {
		t.Errorf("nothing is sealed: %v", err)
	}
}

// TestRolledBackEpochLeavesSecretsAsTheyWere: what was sealed for an epoch that did
// not come is forgotten at the next start, and not while a commit is under way.
func TestRolledBackEpochLeavesSecretsAsTheyWere(t *testing.T) {
	g := start(t)
	r1, r2 := g.release("1.0.0", 1), g.release("2.0.0", 2)
	k := g.keeper(r1, 1, nil)
	put(t, k.Store, "a", "x")
	before := len(files(t, g))
	if err := g.keeper(r2, 1, nil).Prepare(t.Context(), r2); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		reached    uint64
		committing bool
		left       int
	}{{1, true, before + 1}, {2, false, before + 1}, {1, false, before}} {
		if err := g.keeper(r1, c.reached, nil).Tidy(t.Context(), c.committing); err != nil {
			t.Fatal(err)
		}
		if n := len(files(t, g)); n != c.left {
			t.Errorf("%+v: %d files are left", c, n)
		}
	}
	wantSecret(t, k.Store, "a", "x")
}

// TestNewPolicyKeyTakesOverAtTheNextCommit: secrets follow the rotation.
func TestNewPolicyKeyTakesOverAtTheNextCommit(t *testing.T) {
	g := start(t)
	k := g.keeper(g.release("1.0.0", 1), 1, nil)
	put(t, k.Store, "a", "x")
	first := g.release("2.0.0", 1)
	g.key = newKey(t)
	both := g.release("2.0.0", 1)
	both.PCRPolicies = append(both.PCRPolicies, first.PCRPolicies...)
	k = g.keeper(both, 1, nil)
	if err := errors.Join(k.Prepare(t.Context(), both), k.Settle(t.Context(), both)); err != nil {
		t.Fatal(err)
	}
	wantSecret(t, g.keeper(g.release("3.0.0", 1), 1, nil).Store, "a", "x")
}

// TestNothingIsSealedWhereItWouldProtectNothing: no counter, a boot that the owner
// did not sign, no Secure Boot and no PCR 4.
func TestNothingIsSealedWhereItWouldProtectNothing(t *testing.T) {
	g := start(t)
	r := g.release("1.0.0", 1)
	weak := g.release("1.0.0", 1)
	for i := range weak.PCRPolicies {
		weak.PCRPolicies[i].PCRs = []int{11, 12, 13}
	}
	for name, k := range map[string]*secret.Keeper{
		"no counter": g.keeper(r, 1, func(c *secret.KeeperConfig) {
			c.Slots = func(context.Context) (helperwire.Slots, error) { return helperwire.Slots{Counter: "none"}, nil }
		}),
		"no PCR 4":         g.keeper(weak, 1, nil),
		"no policies":      g.keeper(&release.Release{Product: "edge", Channel: "stable", Version: "1.0.0", Epoch: 1}, 1, nil),
		"a boot not meant": g.keeper(&release.Release{Product: "edge", Channel: "stable", Version: "1.0.0", Epoch: 1, PCRPolicies: r.PCRPolicies}, 2, nil),
	} {
		if err := k.Put(t.Context(), "a", secret.Terms{}, []byte("x")); err == nil || len(files(t, g)) != 0 {
			t.Errorf("%s: sealed, %v", name, err)
		}
	}
	if _, err := secret.NewKeeper(secret.KeeperConfig{}); err == nil {
		t.Error("an empty configuration was accepted")
	}
}

// TestRootFileSystemIsCoveredByAHashInEachCommandLineOnly: else seal warns.
func TestRootFileSystemIsCoveredByAHashInEachCommandLineOnly(t *testing.T) {
	g := start(t)
	for reference, want := range map[string]bool{
		``:                                      false,
		`{"command_lines":[]}`:                  false,
		`{"command_lines":["root=/dev/vda2"]}`:  false,
		`{"command_lines":["quiet roothash="]}`: false,
		`{"command_lines":["quiet roothash=ab12"]}`:                                         true,
		`{"command_lines":["dm-mod.create=\"r,,,ro,0 8 verity 1 /dev/x\" root=/dev/dm-0"]}`: true,
		`{"command_lines":["roothash=ab12","root=/dev/vda2"]}`:                              false,
		`[{"command_lines":["roothash=ab12"]},{"command_lines":["roothash=cd34"]}]`:         true,
		`[{"command_lines":["roothash=ab12"]},{"command_lines":["root=/dev/vda2"]}]`:        false,
	} {
		r := &release.Release{Reference: []byte(reference)}
		if got, err := g.keeper(r, 1, nil).CoversRoot(t.Context()); err != nil || got != want {
			t.Errorf("%s: %t, %v", reference, got, err)
		}
	}
}
