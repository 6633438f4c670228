package helper

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/gatewarden/gatewarden/helper/slot"
	"github.com/gatewarden/gatewarden/helper/trust"
	"github.com/gatewarden/gatewarden/internal/helperwire"
	"github.com/gatewarden/gatewarden/update/boot"
	"github.com/gatewarden/gatewarden/update/release"
	"github.com/gatewarden/gatewarden/update/tuf"
)

// image is one image of the release that comes in.
type image struct {
	about       release.Image
	index       tuf.Target
	*slot.Image // open; nil until the slot was claimed
}

// rootFile is the root of the update repository, in the trust folder since the
// machine was installed.
const rootFile = "root.json"

// begin verifies that the owner signed a release for this machine, and opens the
// spare slot for it. No byte of a slot changes before all of that held.
func (i *install) begin(ctx context.Context, r helperwire.Request) (helperwire.Response, error) {
	var none helperwire.Response
	if i.Updates == nil {
		return none, refuse("no-update", "This machine has no slots that the helper knows.")
	}
	if err := i.verify(ctx, r.Target); err != nil {
		return none, err
	}
	i.verbs.Lock()
	defer i.verbs.Unlock()
	b, err := i.books(ctx)
	if err != nil {
		return none, err
	}
	if b.trial {
		return none, refuse("trial", "Slot %s runs on trial: the other one is the way back.", b.running)
	}
	if err := i.release.Applies(b.device()); err != nil {
		return none, err
	}
	if err := i.claim(b); err != nil {
		return none, err
	}
	answer := &helperwire.Install{Slot: i.slot, Release: i.release.Version}
	for _, m := range i.images {
		answer.Images = append(answer.Images, helperwire.Image{Kind: m.about.Slot, Size: m.about.Size, Index: m.about.Index, Length: m.index.Length()})
	}
	return helperwire.Response{Install: answer}, nil
}

// repository asks the agent for the repository's metadata and lets update/tuf judge
// it: by the pinned root, by what was seen before, by our own time.
func (i *install) repository(ctx context.Context) (*tuf.Client, error) {
	root, err := trust.Read(i.FS, filepath.Join(i.Trust, rootFile), tuf.MaxRoot, func(data []byte) (*[]byte, error) { return &data, nil })
	if err != nil {
		return nil, fmt.Errorf("read pinned root: %w", err)
	}
	repository, err := tuf.New(tuf.Config{FS: i.FS, Dir: i.statePath("tuf"), Root: *root, Metadata: i, Now: i.referenceTime})
	if err != nil {
		return nil, err
	}
	return repository, repository.Refresh(ctx)
}

func (i *install) verify(ctx context.Context, path string) error {
	repository, err := i.repository(ctx)
	if err != nil {
		return err
	}
	target, err := repository.Target(ctx, path)
	if err != nil {
		return err
	}
	if i.release, err = release.Parse(target.Custom()); err != nil {
		return refuse("format", "The release is unreadable: %v.", err)
	}
	// Who may sign at one place must not speak for another.
	r := i.release
	if want := fmt.Sprintf("releases/%s/%s/%s.json", r.Product, r.Channel, r.Version); path != want {
		return refuse("path", "Release %s stands at %.100q; its place is %s.", r.Name(), path, want)
	}
	for _, m := range r.Images {
		index, err := repository.Target(ctx, m.Index)
		if err != nil {
			return err
		}
		i.images = append(i.images, &image{about: m, index: index})
	}
	return nil
}

// referenceTime is never below our floor (TUF 1.0, section 5.1).
func (i *install) referenceTime() time.Time {
	i.verbs.Lock()
	defer i.verbs.Unlock()
	now, _ := i.clock.time()
	return now
}

// claim takes the spare slot, with the images that are for it: from now on, also
// after a power cut, it is not to be booted until finish says so.
func (i *install) claim(b *books) error {
	i.slot = b.spare()
	i.images = slices.DeleteFunc(i.images, func(m *image) bool { return !m.about.Fits(i.slot) })
	if l, ok := i.Updates.Loader.(boot.Imager); ok && !slices.ContainsFunc(i.images, func(m *image) bool { return m.about.Slot == l.Image() }) {
		return refuse("image", "The boot loader starts an image %s of each release; release %s has none.", l.Image(), i.release.Version)
	}
	if err := i.Updates.Loader.Commit(b.running); err != nil { // nobody boots into what we write
		return err
	}
	now := helperwire.Slot{State: helperwire.SlotWriting, Release: i.release.Version, Epoch: i.release.Epoch}
	if b.slots[i.slot] != now {
		if err := i.note(b, i.slot, now); err != nil {
			return err
		}
	}
	folder := slot.Folder{FS: i.FS, Path: i.Updates.Slots, Devices: b.product.Devices}
	for _, m := range i.images {
		var err error
		if m.Image, err = folder.Open(i.slot, b.running, m.about); err != nil {
			return fmt.Errorf("open slot %s: %w", i.slot, err)
		}
	}
	i.Log.Info("release is installed", "slot", i.slot, "release", i.release.Version)
	return nil
}

// complete records that every image was read back whole.
func (i *install) complete(ctx context.Context) error {
	i.verbs.Lock()
	defer i.verbs.Unlock()
	b, err := i.books(ctx)
	if err != nil {
		return err
	}
	if b.spare() != i.slot || b.slots[i.slot].State != helperwire.SlotWriting {
		return refuse("slot", "Slot %s is no longer the one being written.", i.slot)
	}
	return i.mark(b, i.slot, helperwire.SlotComplete)
}
