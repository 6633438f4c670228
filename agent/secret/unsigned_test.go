package secret_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/agent/secret"
	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
	"github.com/gatewarden/gatewarden/update/release"
)

// software is what a release boots, started by systemd-boot.
func software(name string) attest.Boot {
	digest := func(part string) attest.Digest { return sha256.Sum256([]byte(part + " of " + name)) }
	b := attest.Boot{Loader: digest("loader"), UKI: digest("UKI"), Kernel: digest("kernel"), CommandLine: "gw=" + name}
	for _, part := range []string{".linux", ".osrel", ".cmdline", ".initrd", ".uname"} {
		b.Sections = append(b.Sections, attest.Section{Name: part, Digest: digest(part)})
	}
	return b
}

// measures cuts the power and boots b, as fleet/release predicts it.
func (g *gateway) measures(b attest.Boot, phases ...string) {
	g.t.Helper()
	_ = g.chip.Close()
	_ = g.power.Kill()
	g.power = tpmtest.PowerOn(g.t, g.machine)
	extend := func(pcr int, digest [32]byte) {
		if err := g.power.Extend(context.Background(), pcr, digest); err != nil {
			g.t.Fatal(err)
		}
	}
	extend(4, sha256.Sum256([]byte("Calling EFI Application from Boot Option")))
	extend(4, sha256.Sum256(make([]byte, 4)))
	extend(7, sha256.Sum256([]byte("Secure Boot is off")))
	for _, e := range attest.BootEvents(b) {
		extend(e.PCR, e.Digest)
	}
	for _, phase := range phases {
		extend(11, sha256.Sum256([]byte(phase)))
	}
	chip, err := tpm.Open(context.Background(), "unix:"+g.power.Socket)
	if err != nil {
		g.t.Fatal(err)
	}
	g.chip = chip
	g.t.Cleanup(func() { _ = chip.Close() })
}

// unsigned is a release without PCR policies, that boots otherwise in each slot.
func (g *gateway) unsigned(version string, epoch uint64) *release.Release {
	g.t.Helper()
	var list []attest.Release
	for _, slot := range []string{"a", "b"} {
		one := software(version+slot).Release("edge", version)
		one.For = slot
		list = append(list, one)
	}
	reference, err := json.Marshal(list)
	if err != nil {
		g.t.Fatal(err)
	}
	return &release.Release{Product: "edge", Channel: "stable", Version: version, Epoch: epoch, Reference: reference}
}

// opensIn says in which of these boots the secret opens.
func (g *gateway) opensIn(r *release.Release, reached uint64, names ...string) (list []string) {
	for _, name := range names {
		g.measures(software(name), "sysinit", "ready")
		if got, err := g.keeper(r, reached, nil).Get(g.t.Context(), "a"); err == nil && string(got) == "it" {
			list = append(list, name)
		}
	}
	return list
}

func (g *gateway) wantOpen(r *release.Release, reached uint64, want string) {
	g.t.Helper()
	if got := strings.Join(g.opensIn(r, reached, "1a", "1b", "2a", "2b"), " "); got != want {
		g.t.Errorf("it opens in %q, want %q", got, want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestSecretsFollowReleasesWithoutPCRPolicies: before the reboot the next slot's boot
// is named beside this one, after the commit it is alone.
func TestSecretsFollowReleasesWithoutPCRPolicies(t *testing.T) {
	for _, epoch := range []uint64{1, 2} {
		g := start(t)
		r1, r2 := g.unsigned("1", 1), g.unsigned("2", epoch)
		g.measures(software("1a"), "sysinit", "ready")
		k := g.keeper(r1, 1, nil)
		must(t, k.Put(t.Context(), "a", secret.Terms{Unit: "a.service"}, []byte("it")))
		g.wantOpen(r1, 1, "1a")
		g.measures(software("1a"), "sysinit", "ready")
		for range 2 { // it may be repeated
			must(t, g.keeper(r1, 1, nil).Foresee(t.Context(), r2, "b"))
		}
		g.wantOpen(r1, 1, "1a 2b")

		g.measures(software("2b"), "sysinit", "ready")
		k = g.keeper(r2, 1, nil)
		must(t, k.Prepare(t.Context(), r2))
		g.raise(1 + epoch)
		k = g.keeper(r2, epoch, nil)
		must(t, k.Settle(t.Context(), r2))
		must(t, k.Settle(t.Context(), r2))
		g.wantOpen(r2, epoch, "2b")
		g.measures(software("2b"), "sysinit")
		wantSecret(t, g.keeper(r2, epoch, nil).Store, "a", "it")
	}
}

// TestReleaseThatWasLeftOpensNothingAnyMore: after a roll back, at the next start.
func TestReleaseThatWasLeftOpensNothingAnyMore(t *testing.T) {
	g := start(t)
	r1, r2 := g.unsigned("1", 1), g.unsigned("2", 1)
	g.measures(software("1a"), "sysinit", "ready")
	must(t, g.keeper(r1, 1, nil).Put(t.Context(), "a", secret.Terms{}, []byte("it")))
	must(t, g.keeper(r1, 1, nil).Foresee(t.Context(), r2, "b"))
	must(t, g.keeper(r1, 1, nil).Tidy(t.Context(), true)) // the trial may still come
	g.wantOpen(r1, 1, "1a 2b")
	g.measures(software("1a"), "sysinit", "ready")
	must(t, g.keeper(r1, 1, nil).Tidy(t.Context(), false))
	g.wantOpen(r1, 1, "1a")
}

// TestSecretsGoFromSignedReleasesToOthersAndBack.
func TestSecretsGoFromSignedReleasesToOthersAndBack(t *testing.T) {
	g := start(t)
	b := software("1a")
	g.approved = nil
	for _, path := range [][]string{{"sysinit"}, {"sysinit", "ready"}} {
		g.approved = append(g.approved, digests(b.PCRs(path)))
	}
	signed := g.release("1", 1)
	r2 := g.unsigned("2", 1)
	g.measures(b, "sysinit", "ready")
	must(t, g.keeper(signed, 1, nil).Put(t.Context(), "a", secret.Terms{}, []byte("it")))
	must(t, g.keeper(signed, 1, nil).Foresee(t.Context(), g.unsigned("2", 1), "b"))
	g.wantOpen(signed, 1, "1a 2b")
	g.measures(software("2b"), "sysinit", "ready")
	must(t, g.keeper(r2, 1, nil).Settle(t.Context(), r2))
	g.wantOpen(r2, 1, "2b")

	signed.Reference = g.unsigned("1", 1).Reference // back to a signed one, in slot a
	g.measures(software("2b"), "sysinit", "ready")
	must(t, g.keeper(r2, 1, nil).Foresee(t.Context(), signed, "a"))
	g.measures(b, "sysinit", "ready")
	must(t, g.keeper(signed, 1, nil).Prepare(t.Context(), signed))
	must(t, g.keeper(signed, 1, nil).Settle(t.Context(), signed))
	g.wantOpen(signed, 1, "1a")
	items, err := g.keeper(signed, 1, nil).List()
	if err != nil || items[0].Boots != 0 || items[0].Key == nil {
		t.Errorf("it is still sealed to %d boots, %v", items[0].Boots, err)
	}
}

func TestReleaseThatTellsOfNoBootIsRefusedBeforeTheReboot(t *testing.T) {
	g := start(t)
	r1 := g.unsigned("1", 1)
	g.measures(software("1a"), "sysinit", "ready")
	k := g.keeper(r1, 1, nil)
	if err := k.Foresee(t.Context(), &release.Release{Version: "2"}, "b"); err != nil {
		t.Errorf("nothing is sealed: %v", err)
	}
	if err := k.Put(t.Context(), "a", secret.Terms{Until: "ready"}, []byte("x")); err == nil {
		t.Error("nothing shuts it at ready")
	}
	must(t, k.Put(t.Context(), "a", secret.Terms{}, []byte("it")))
	var refused *policy.Refusal
	if err := k.Foresee(t.Context(), &release.Release{Version: "2"}, "b"); !errors.As(err, &refused) || refused.Rule != secret.RuleLost {
		t.Errorf("got %v", err)
	}
	g.measures(software("evil"), "sysinit", "ready")
	if err := g.keeper(r1, 1, nil).Put(t.Context(), "b", secret.Terms{}, []byte("x")); err == nil {
		t.Error("it was sealed to a boot that the release does not tell of")
	}
	g.wantOpen(r1, 1, "1a")
}

// TestPowerCutAtEveryStepOfForesee leaves a secret that opens in the boot of now.
func TestPowerCutAtEveryStepOfForesee(t *testing.T) {
	g := start(t)
	r1, r2 := g.unsigned("1", 1), g.unsigned("2", 1)
	g.measures(software("1a"), "sysinit", "ready")
	must(t, g.keeper(r1, 1, nil).Put(t.Context(), "a", secret.Terms{}, []byte("it")))
	for n := 1; ; n++ {
		cut := &cutter{n: n}
		k := g.keeper(r1, 1, func(c *secret.KeeperConfig) { c.FS = &fsx.FS{Hook: cut.hook} })
		err := k.Foresee(t.Context(), r2, "b")
		wantSecret(t, g.keeper(r1, 1, nil).Store, "a", "it")
		if err == nil {
			if n < 4 {
				t.Errorf("only %d operations", n)
			}
			break
		}
		if !errors.Is(err, errCut) {
			t.Fatal(err)
		}
	}
	g.wantOpen(r1, 1, "1a 2b")
}

// digests are those of PCRs that secrets are sealed to without Secure Boot.
func digests(predicted map[int]attest.Digest) map[int]tpmpolicy.Digest {
	values := make(map[int]tpmpolicy.Digest)
	for _, pcr := range []int{4, 11, 12, 13} {
		values[pcr] = tpmpolicy.Digest(predicted[pcr])
	}
	return values
}
