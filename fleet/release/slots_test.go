package release_test

import (
	"crypto/sha256"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/release"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/testdata/boot"
	target "github.com/gatewarden/gatewarden/update/release"
)

// optionsForBoth are options with a UKI for each slot, alike but for the command line.
func (a *author) optionsForBoth(version string, epoch uint64) release.BuildOptions {
	a.t.Helper()
	o := a.options(version, epoch)
	dir := filepath.Dir(o.UKI)
	o.UKI, o.UKIA, o.UKIB = "", filepath.Join(dir, "gw-a.efi"), filepath.Join(dir, "gw-b.efi")
	for slot, file := range map[string]string{"a": o.UKIA, "b": o.UKIB} {
		must(a.t, os.WriteFile(file, boot.UKI("kernel of "+version, "VERSION="+version, "root=PARTLABEL=slot-"+slot+" ro"), 0o644))
	}
	return o
}

// bootsOf reads what each UKI measures.
func (a *author) bootsOf(o release.BuildOptions) (forA, forB attest.Boot) {
	a.t.Helper()
	read := func(file string) attest.Boot {
		uki, err := os.ReadFile(file)
		must(a.t, err)
		loader, err := os.ReadFile(o.Loader)
		must(a.t, err)
		b, err := attest.ReadUKI(uki, loader)
		must(a.t, err)
		return b
	}
	return read(o.UKIA), read(o.UKIB)
}

func TestAReleaseWithAUKIForEachSlotIsPublishedForBoth(t *testing.T) {
	a := newAuthor(t)
	o := a.optionsForBoth("1.0.0", 2)
	built, err := a.repo.Build(t.Context(), o)
	must(t, err)
	if built.PCRPolicies != 2*2*6 || len(built.Images) != 3 || built.Images[1].Name() != "boot-a" || built.Images[2].Name() != "boot-b" {
		t.Errorf("built %+v", built)
	}
	_, err = a.repo.Policy(release.PolicyOptions{Fleet: "lab"})
	must(t, err)
	a.sign()
	a.publish()
	d := a.device(a.root(1))
	must(t, d.Refresh(t.Context()))
	found, err := d.Target(t.Context(), built.Target)
	must(t, err)
	r, err := target.Parse(found.Custom())
	must(t, err)
	for slot, file := range map[string]string{"a": o.UKIA, "b": o.UKIB} {
		uki, err := os.ReadFile(file)
		must(t, err)
		names := ""
		for _, image := range r.Images {
			if !image.Fits(slot) {
				continue
			}
			names += " " + filepath.Base(image.Name)
			got := sha256.Sum256(d.image(image))
			if got != image.SHA256 || image.Slot == "boot" && got != sha256.Sum256(uki) {
				t.Errorf("image %s comes out as %x", image.Name, got)
			}
		}
		if names != " rootfs.img boot-"+slot+".efi" {
			t.Errorf("slot %s gets%s", slot, names)
		}
	}
	policy, err := attest.ParsePolicy(d.download("policy/attest.json"))
	must(t, err)
	lines := ""
	for _, one := range policy.Releases {
		lines += one.Name() + " " + one.For + ": " + strings.Join(one.CommandLines, ", ") + "; "
	}
	if lines != "edge 1.0.0 a: root=PARTLABEL=slot-a ro; edge 1.0.0 b: root=PARTLABEL=slot-b ro; " {
		t.Errorf("the attestation policy lists %s", lines)
	}
}

// The draft had one UKI at first: its reference values don't stay beside the others.
func TestRebuiltForEachSlotThePolicyForgetsTheOneUKI(t *testing.T) {
	a := newAuthor(t)
	a.build("0.9.0", 1)
	a.build("1.0.0", 1)
	_, err := a.repo.Policy(release.PolicyOptions{Fleet: "lab"})
	must(t, err)
	_, err = a.repo.Build(t.Context(), a.optionsForBoth("1.0.0", 1))
	must(t, err)
	data, err := a.repo.Policy(release.PolicyOptions{})
	must(t, err)
	policy, err := attest.ParsePolicy(data)
	must(t, err)
	if len(policy.Releases) != 3 || policy.Releases[1].For != "a" || policy.Releases[2].For != "b" {
		t.Errorf("the policy lists %+v", policy.Releases)
	}
}

// A secret that was sealed in slot a opens in slot b under the next release, back in
// slot a under the one after, and in no boot that is half one and half the other.
func TestASecretFollowsFromSlotToSlot(t *testing.T) {
	a := newAuthor(t)
	var boots [][2]attest.Boot
	for _, version := range []string{"1.0.0", "1.1.0", "1.2.0"} {
		o := a.optionsForBoth(version, 1)
		_, err := a.repo.Build(t.Context(), o)
		must(t, err)
		forA, forB := a.bootsOf(o)
		boots = append(boots, [2]attest.Boot{forA, forB})
	}
	a.sign()
	a.publish()
	list, err := a.repo.List()
	must(t, err)
	d := a.device(a.root(1))
	must(t, d.Refresh(t.Context()))
	block, _ := pem.Decode(d.download("policy/pcr/edge.pem"))
	key, err := tpmpolicy.ParseKey(block.Bytes)
	must(t, err)

	m := &machine{t: t}
	m.boot(boots[0][0], "sysinit", "ready")
	secret := m.seal(key, "")
	must(t, m.opens(secret, list[0]))
	m.boot(boots[1][1], "sysinit", "ready")
	must(t, m.opens(secret, list[1]))
	m.boot(boots[2][0], "sysinit", "ready")
	must(t, m.opens(secret, list[2]))
	mixed := boots[2][0]
	mixed.CommandLine = boots[2][1].CommandLine
	m.boot(mixed, "sysinit", "ready")
	if m.opens(secret, list[2]) == nil {
		t.Error("it opens with slot a's UKI and slot b's command line")
	}
}

func TestAReleaseForOneSlotOnlyIsNotBuilt(t *testing.T) {
	a := newAuthor(t)
	for text, change := range map[string]func(*release.BuildOptions){
		"one UKI for both slots, or one for slot a": func(o *release.BuildOptions) { o.UKIA = "" },
		"or one for slot a and one for slot b":      func(o *release.BuildOptions) { o.UKIB = "" },
		"give one UKI for both slots":               func(o *release.BuildOptions) { o.UKI = o.UKIA },
		`the UKI for slot a has "root=PARTLABEL=slot-b"`: func(o *release.BuildOptions) {
			o.UKIA, o.UKIB = o.UKIB, o.UKIA
		},
		`the UKI for slot b has "root=PARTLABEL=slot-a"`:                     func(o *release.BuildOptions) { o.UKIB = o.UKIA },
		"43 epochs with 12 PCR policies each: a release carries at most 512": func(o *release.BuildOptions) { o.Epoch = 43 },
	} {
		o := a.optionsForBoth("1.0.0", 1)
		change(&o)
		a.refused(text, func() error { _, err := a.repo.Build(t.Context(), o); return err })
	}
}

// Signed by other means than Build: gateways would turn red in the slot that was
// forgotten.
func TestAReleaseWithoutTheReferenceOfOneSlotIsNotPublished(t *testing.T) {
	a := newAuthor(t)
	a.sign()
	a.publish()
	_, err := a.repo.Build(t.Context(), a.optionsForBoth("1.0.0", 1))
	must(t, err)
	disk, file := &fsx.FS{}, filepath.Join(a.dir, "draft.json")
	var draft map[string]any
	must(t, disk.ReadJSON(file, 1<<20, &draft))
	custom := draft["files"].(map[string]any)["releases"].(map[string]any)["releases/edge/stable/1.0.0.json"].(map[string]any)["custom"].(map[string]any)
	both := custom["reference"].([]any)
	write := func(reference any) {
		custom["reference"] = reference
		must(t, disk.WriteJSON(file, draft, 0o644))
	}
	for _, wrong := range []any{both[:1], both[0], []any{both[1], both[1]}} {
		write(wrong)
		a.refused("the values for", func() error { _, err := a.repo.Policy(release.PolicyOptions{Fleet: "lab"}); return err })
	}
	a.sign()
	a.refused("reference values: its images are for slots", a.tryPublish)
}
