package release

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/update/chunk"
	"github.com/gatewarden/gatewarden/update/chunk/pack"
	"github.com/gatewarden/gatewarden/update/release"
)

// BuildOptions describe a release. UKI, UKIA and UKIB, Loader, MinSource, Deadline,
// Phases, Unsigned, Notes, Workers and Progress may be left out.
type BuildOptions struct {
	Product, Channel, Version string
	Epoch                     uint64
	Hardware                  []string
	MinSource                 string
	Rootfs                    string // path of the image of slot "rootfs"
	// UKI is the path of a unified kernel image, the image of slot "boot". Without
	// one the release has no reference values, and opens no sealed secret.
	UKI string
	// UKIA and UKIB are, in the place of UKI, one for each slot: where the command line
	// inside names the slot, as for systemd-boot.
	UKIA, UKIB string
	Loader     string // path of the systemd-boot that starts the UKI, empty if the firmware does
	Confirm    release.Confirm
	Deadline   time.Time
	Phases     []string // boot-phase paths in which secrets may open, by default DefaultPhases
	Unsigned   bool     // no PCR policies: devices seal to the boots that the reference values tell of
	Notes      string
	Workers    int // compressing at once, by default one for each CPU
	// Progress is told, never concurrently, how many bytes of an image are done.
	Progress func(image string, done, total int64)
}

// DefaultPhases are those of a machine without initrd.
func DefaultPhases() []string { return []string{"sysinit", "sysinit:ready"} }

// Built is what Build made.
type Built struct {
	Target string        `json:"target"` // path of the release target
	Images []PackedImage `json:"images"`
	// PCRPolicies is how many were signed.
	PCRPolicies int `json:"pcr_policies"`
}

// PackedImage is one image of a release and what it added to the chunk store.
type PackedImage struct {
	Slot   string `json:"slot"`
	For    string `json:"for,omitempty"`
	Size   int64  `json:"size"`   // bytes
	Chunks int    `json:"chunks"` // different ones
	Added  int    `json:"added"`  // of them, new in the store
	Packed int64  `json:"packed"` // bytes of the new ones
}

// Build makes a release and puts it into the draft: chunks, indexes, reference
// values, PCR policies. The same options and files give the same release, so that it
// may be done again at any time until it is published; then its version is taken.
func (r *Repo) Build(ctx context.Context, o BuildOptions) (*Built, error) {
	rel := &release.Release{
		Format: 1, Product: o.Product, Channel: o.Channel, Version: o.Version, Epoch: o.Epoch, Hardware: o.Hardware,
		MinSource: o.MinSource, Confirm: o.Confirm, Deadline: o.Deadline.UTC().Truncate(time.Second), Notes: o.Notes,
	}
	if rel.Confirm.Checks == nil {
		rel.Confirm.Checks = []release.Criterion{} // null is no list
	}
	fail := func(err error) (*Built, error) {
		return nil, fmt.Errorf("build release %s: %w", rel.Name(), err)
	}
	if err := r.precheck(rel, o); err != nil {
		return fail(err)
	}
	ukis, err := o.ukis()
	if err != nil {
		return fail(err)
	}
	if err := r.predict(rel, o, ukis); err != nil {
		return fail(err)
	}
	built := &Built{Target: targetOf(rel), PCRPolicies: len(rel.PCRPolicies)}
	files, err := r.pack(ctx, rel, o, ukis, built)
	if err != nil {
		return fail(err)
	}
	data, err := json.Marshal(rel)
	if err != nil {
		return fail(err)
	}
	if _, err := release.Parse(data); err != nil {
		return fail(err)
	}
	files = append(files, file{path: built.Target, data: data, custom: data})
	if err := r.unpublished(files); err != nil {
		return fail(err)
	}
	if err := r.stage(Releases, files...); err != nil {
		return fail(err)
	}
	return built, nil
}

func prefixOf(r *release.Release) string {
	return path.Join("releases", r.Product, r.Channel, r.Version)
}

func targetOf(r *release.Release) string { return prefixOf(r) + ".json" }

// precheck finds what is wrong before the long work: all of what Parse will say, on
// a release whose images are not known yet.
func (r *Repo) precheck(rel *release.Release, o BuildOptions) error {
	trial := *rel
	trial.Images = []release.Image{{Slot: "rootfs", Name: "x", Size: 1, SHA256: release.Digest{1}, Index: "x.caibx"}}
	data, err := json.Marshal(trial)
	if err != nil {
		return err
	}
	if _, err := release.Parse(data); err != nil {
		return err
	}
	if o.Rootfs == "" {
		return errors.New("no image of the root file system is named")
	}
	others, err := r.List()
	if err != nil {
		return err
	}
	return checkEpochs(append(others, rel))
}

// checkEpochs refuses a release that no device on a lower version could install: one
// with a smaller epoch than a lower version has.
func checkEpochs(all []*release.Release) error {
	for _, a := range all {
		low, err := release.ParseVersion(a.Version)
		if err != nil {
			return err
		}
		for _, b := range all {
			if b.Product != a.Product || b.Channel != a.Channel || b.Epoch >= a.Epoch {
				continue
			}
			high, err := release.ParseVersion(b.Version)
			if err != nil {
				return err
			}
			if high.Compare(low) > 0 {
				return fmt.Errorf("%s has epoch %d, below that of the lower version %s (%d): devices on it would refuse", b.Name(), b.Epoch, a.Version, a.Epoch)
			}
		}
	}
	return nil
}

// pack cuts the images and returns their indexes as targets.
func (r *Repo) pack(ctx context.Context, rel *release.Release, o BuildOptions, ukis []input, built *Built) ([]file, error) {
	var files []file
	for _, in := range append([]input{{"rootfs", "", o.Rootfs}}, ukis...) {
		about := release.Image{Slot: in.kind, For: in.slot}
		name, ending := prefixOf(rel)+"/"+imageName(in.kind, in.slot), ".img"
		if in.kind == "boot" {
			ending = ".efi"
		}
		about.Name, about.Index = name+ending, name+".caibx"
		done, index, err := r.packImage(ctx, in.file, &about, o)
		if err != nil {
			return nil, fmt.Errorf("pack %s: %w", in.file, err)
		}
		rel.Images = append(rel.Images, about)
		built.Images = append(built.Images, done)
		files = append(files, file{path: about.Index, data: index})
	}
	return files, nil
}

// packImage hashes the bytes that it cuts: a file that changes meanwhile can't make
// the two disagree.
func (r *Repo) packImage(ctx context.Context, name string, about *release.Image, o BuildOptions) (PackedImage, []byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return PackedImage{}, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return PackedImage{}, nil, err
	}
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return PackedImage{}, nil, errors.New("it is empty, or no regular file")
	}
	if o.Workers == 0 {
		o.Workers = runtime.NumCPU()
	}
	algorithm, err := r.algorithm()
	if err != nil {
		return PackedImage{}, nil, err
	}
	hash := sha256.New()
	cfg := pack.Config{
		Image: io.TeeReader(f, hash), Size: info.Size(), Store: r.path("chunks"), FS: r.cfg.FS, Workers: o.Workers,
		Sizes: chunk.SizesFor(info.Size()), Algorithm: algorithm,
	}
	if o.Progress != nil {
		cfg.Progress = func(done, total int64) { o.Progress(imageName(about.Slot, about.For), done, total) }
	}
	result, err := pack.Pack(ctx, cfg)
	if err != nil {
		return PackedImage{}, nil, err
	}
	about.Size, about.SHA256 = info.Size(), release.Digest(hash.Sum(nil))
	return PackedImage{Slot: about.Slot, For: about.For, Size: about.Size, Chunks: result.Chunks, Added: result.Added, Packed: result.Packed}, result.Index.Encode(), nil
}

// Withdraw drafts that a release is offered no more. Devices that run it go on, and
// its reference values stay in the attestation policy.
func (r *Repo) Withdraw(product, channel, version string) error {
	list, err := r.List()
	if err != nil {
		return fmt.Errorf("withdraw release: %w", err)
	}
	for _, rel := range list {
		if rel.Product != product || rel.Channel != channel || rel.Version != version {
			continue
		}
		d, err := r.loadDraft()
		if err != nil {
			return fmt.Errorf("withdraw release: %w", err)
		}
		d.put(Releases, targetOf(rel), entry{})
		for _, image := range rel.Images {
			d.put(Releases, image.Index, entry{})
		}
		return r.saveDraft(d)
	}
	return fmt.Errorf("withdraw release: there is no %s %s in channel %s", product, version, channel)
}

// List returns the releases of the repository, signed or drafted, in the order of
// their paths.
func (r *Repo) List() ([]*release.Release, error) {
	all, err := r.entries(Releases)
	if err != nil {
		return nil, err
	}
	list := []*release.Release{} // in JSON a list, also if it is empty
	for _, name := range sortedKeys(all) {
		if !strings.HasSuffix(name, ".json") {
			continue
		}
		one, err := release.Parse(all[name].Custom)
		if err != nil {
			return nil, fmt.Errorf("read target %s: %w", name, err)
		}
		list = append(list, one)
	}
	return list, nil
}
