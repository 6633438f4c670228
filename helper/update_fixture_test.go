package helper

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/gatewarden/gatewarden/helper/client"
	"github.com/gatewarden/gatewarden/helper/slot"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/update/boot"
	"github.com/gatewarden/gatewarden/update/chunk"
	"github.com/gatewarden/gatewarden/update/release"
	"github.com/gatewarden/gatewarden/update/tuf/tuftest"
)

const (
	chunkSize = 16 << 10
	imageSize = 20*chunkSize + 1234 // bytes
)

// slotted is a machine with two slots and the owner's repository. Slot a runs
// release 1.0.0, epoch 1.
type slotted struct {
	*machine
	repo  *tuftest.Repo
	slots string
	boot  int // number

	epoch uint64 // that was reached, as far as was seen
	kept  bool   // the new release was committed, as far as was seen
	sent  int    // chunks
}

func newSlotted(t testing.TB) *slotted {
	t.Helper()
	m := &slotted{machine: newMachine(t), repo: tuftest.New(t)}
	m.now = tuftest.Epoch()
	m.slots = filepath.Join(m.dir, "slots")
	for _, dir := range []string{"slot-a", "slot-b"} {
		if err := m.config.FS.MkdirAll(filepath.Join(m.slots, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.must(os.WriteFile(m.image("a", "rootfs"), content(1), 0o600))
	m.must(boot.FileInit(m.slots, "a"))
	m.writeTrust("product.json", Product{Format: 1, Product: "gw", Channel: "stable", Hardware: "box-1", Version: "1.0.0", Epoch: 1})
	m.must(os.WriteFile(filepath.Join(m.config.Trust, "root.json"), m.repo.Served["root"][0], 0o644))
	m.config.Updates = &Updates{Slots: m.slots, Product: filepath.Join(m.config.Trust, "product.json")}
	m.setFS(&fsx.FS{})
	m.powerOn()
	return m
}

func (m *slotted) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// setFS gives helper and boot loader the same disk.
func (m *slotted) setFS(fs *fsx.FS) {
	m.config.FS = fs
	m.config.Updates.Loader = boot.All(boot.Deps{FS: fs, Folder: m.slots})[0].Loader
}

// powerOn plays the firmware: it returns the slot that boots. The helper must be
// down.
func (m *slotted) powerOn() string {
	m.t.Helper()
	slot, err := boot.FileBoot(m.slots)
	m.must(err)
	m.boot++
	m.config.BootID = fmt.Sprint("boot-", m.boot)
	return slot
}

func (m *slotted) wantBoot(slot string) {
	m.t.Helper()
	m.halt()
	if got := m.powerOn(); got != slot {
		m.t.Fatalf("slot %s boots, want %s", got, slot)
	}
}

func (m *slotted) image(slot, kind string) string {
	return filepath.Join(m.slots, "slot-"+slot, kind+".img")
}

// content is an image, of which one chunk in five differs from seed to seed.
func content(seed byte) []byte {
	data := make([]byte, imageSize)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(data[8*chunkSize : 12*chunkSize])
	return data
}

func indexOf(t testing.TB, data []byte) *chunk.Index {
	t.Helper()
	b, err := chunk.NewBuilder(chunk.SHA512_256, chunk.Sizes{Min: 1, Avg: chunkSize, Max: chunkSize})
	if err != nil {
		t.Fatal(err)
	}
	for rest := data; len(rest) > 0; {
		n := min(chunkSize, len(rest))
		if err := b.Add(chunk.SHA512_256.Sum(rest[:n]), n); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	ix, err := b.Index()
	if err != nil {
		t.Fatal(err)
	}
	return ix
}

// offer is a release as its author has it.
type offer struct {
	release.Release
	path   string
	images map[string][]byte // by kind; KIND-SLOT is for that slot alone
}

// image is what a slot gets of a kind.
func (o *offer) image(kind, slot string) []byte {
	if data, ok := o.images[kind+"-"+slot]; ok {
		return data
	}
	return o.images[kind]
}

func newOffer(version string, image []byte) *offer {
	return &offer{Release: release.Release{
		Format: 1, Product: "gw", Channel: "stable", Version: version, Epoch: 1, Hardware: []string{"box-1", "box-2"},
		Confirm: release.Confirm{Timeout: 60},
	}, path: "releases/gw/stable/" + version + ".json", images: map[string][]byte{"rootfs": image}}
}

func (o *offer) indexPath(kind string) string {
	return "releases/" + o.Product + "/" + o.Channel + "/" + o.Version + "/" + kind + ".caibx"
}

// publish signs the release with the repository's keys.
func (m *slotted) publish(o *offer) {
	m.t.Helper()
	o.Images = nil
	for name, data := range o.images {
		path := o.indexPath(name)
		m.repo.AddTarget("targets", path, indexOf(m.t, data).Encode())
		kind, slot, _ := strings.Cut(name, "-")
		o.Images = append(o.Images, release.Image{Slot: kind, For: slot, Name: name + ".img", Size: int64(len(data)), SHA256: sha256.Sum256(data), Index: path})
	}
	m.sign(o)
}

func (m *slotted) sign(o *offer) {
	m.t.Helper()
	custom, err := json.Marshal(o.Release)
	m.must(err)
	m.repo.AddTarget("targets", o.path, custom)
	raw := json.RawMessage(custom)
	m.target(o.path).Custom = &raw
	m.repo.Publish("targets", "snapshot", "timestamp")
}

func (m *slotted) target(path string) *metadata.TargetFiles {
	return m.repo.Targets["targets"].Signed.Targets[path]
}

// install does what a good agent does with the release, and returns how many
// chunks it sent.
func (m *slotted) install(c *client.Client, o *offer) (sent int, err error) {
	i, err := c.Install(m.t.Context(), o.path, m.repo.Metadata())
	if err != nil {
		return 0, err
	}
	defer i.Close()
	for _, image := range i.Images() {
		n, err := m.send(i, image.Kind, o.image(image.Kind, i.Slot()))
		if sent += n; err != nil {
			return sent, err
		}
	}
	return sent, i.Finish(m.t.Context(), nil)
}

func (m *slotted) send(i *client.Install, kind string, data []byte) (sent int, err error) {
	index := indexOf(m.t, data)
	if err := i.Index(m.t.Context(), kind, index.Encode()); err != nil {
		return 0, err
	}
	var running []byte
	if kind == "rootfs" {
		running = indexOf(m.t, content(1)).Encode()
	}
	missing, err := i.Seed(m.t.Context(), running, nil)
	if err != nil {
		return 0, err
	}
	for _, n := range missing {
		if err := i.Chunk(m.t.Context(), n, piece(index, data, n)); err != nil {
			return sent, err
		}
		sent++
	}
	return sent, nil
}

func piece(index *chunk.Index, data []byte, n int) []byte {
	c := index.At(n)
	return data[c.Offset:][:c.Size]
}

// wantRule checks a refusal and that no machine rebooted.
func (m *slotted) wantRule(err error, rule string) {
	m.t.Helper()
	var refusal *policy.Refusal
	if !errors.As(err, &refusal) || refusal.Rule != rule || refusal.Text == "" {
		m.t.Errorf("error is %v, want a refusal by %s", err, rule)
	}
	if len(m.boots) > 0 {
		m.t.Error("it rebooted")
	}
}

// wantSlot compares a slot with an image; nil means that it was never written.
func (m *slotted) wantSlot(slot string, want []byte) {
	m.t.Helper()
	got, err := os.ReadFile(m.image(slot, "rootfs"))
	if want == nil && errors.Is(err, os.ErrNotExist) {
		return
	}
	m.must(err)
	if string(got) != string(want) {
		m.t.Errorf("slot %s holds %d bytes, not the image of %d", slot, len(got), len(want))
	}
}

func newImage(about release.Image, open *slot.Image) *image { return &image{about: about, Image: open} }
