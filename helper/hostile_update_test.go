package helper

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/gatewarden/gatewarden/helper/client"
	"github.com/gatewarden/gatewarden/helper/slot"
	"github.com/gatewarden/gatewarden/internal/helperwire"
	"github.com/gatewarden/gatewarden/update/release"
	"github.com/gatewarden/gatewarden/update/tuf/tuftest"
)

// A hostile agent carries what its owner never signed, or signed for another
// machine or another time. Nothing of it reaches the slot.
func TestHelperRefusesReleasesThatAreNotForIt(t *testing.T) {
	for name, c := range map[string]struct {
		change func(m *slotted, o *offer)
		rule   string
	}{
		"other product":     {rule: "product", change: func(_ *slotted, o *offer) { o.Product = "toaster"; o.path = "releases/toaster/stable/1.1.0.json" }},
		"other channel":     {rule: "channel", change: func(_ *slotted, o *offer) { o.Channel = "beta"; o.path = "releases/gw/beta/1.1.0.json" }},
		"other hardware":    {rule: "hardware", change: func(_ *slotted, o *offer) { o.Hardware = []string{"box-9"} }},
		"older version":     {rule: "version", change: func(_ *slotted, o *offer) { o.Version, o.path = "0.9.0", "releases/gw/stable/0.9.0.json" }},
		"running version":   {rule: "installed", change: func(_ *slotted, o *offer) { o.Version, o.path = "1.0.0", "releases/gw/stable/1.0.0.json" }},
		"source too old":    {rule: "source", change: func(_ *slotted, o *offer) { o.MinSource = "1.0.5" }},
		"older epoch":       {rule: "epoch", change: func(m *slotted, _ *offer) { m.born(3) }},
		"other place":       {rule: "path", change: func(_ *slotted, o *offer) { o.path = "releases/gw/beta/1.1.0.json" }},
		"no release at all": {rule: "format", change: func(_ *slotted, o *offer) { o.Format = 9 }},
		"own future": {rule: "tuf/expired", change: func(m *slotted, _ *offer) {
			m.now = tuftest.Epoch().AddDate(0, 0, 31)
		}},
		"floor ahead of the clock": {rule: "tuf/expired", change: func(m *slotted, _ *offer) {
			m.now, m.config.Build = time.Unix(0, 0), tuftest.Epoch().AddDate(0, 0, 31)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newSlotted(t)
			o := newOffer("1.1.0", content(2))
			c.change(m, o)
			m.publish(o)
			_, err := m.install(m.run(), o)
			m.wantRule(err, c.rule)
			m.wantSlot("b", nil)
			m.wantBoot("a")
		})
	}
}

// born makes the machine one whose first release had this epoch.
func (m *slotted) born(epoch uint64) {
	m.writeTrust("product.json", Product{Format: 1, Product: "gw", Channel: "stable", Hardware: "box-1", Version: "1.0.0", Epoch: epoch})
}

func TestHelperRefusesWhatTheOwnerDidNotSign(t *testing.T) {
	stranger := tuftest.NewSigner(t, "ed25519")
	for name, c := range map[string]struct {
		alter func(m *slotted, o *offer)
		rule  string
	}{
		"unsigned": {rule: "tuf/signature", alter: func(m *slotted, _ *offer) {
			m.repo.Alter("targets", func(file map[string]any) { file["signatures"] = []any{} })
		}},
		"stranger's signature": {rule: "tuf/signature", alter: func(m *slotted, o *offer) {
			m.repo.Signers["targets"] = []tuftest.Signer{stranger}
			m.sign(o)
		}},
		"altered after signing": {rule: "tuf/signature", alter: func(m *slotted, _ *offer) {
			m.repo.Alter("targets", func(file map[string]any) { file["signed"].(map[string]any)["comment"] = "mine" })
		}},
		"other repository": {rule: "tuf/signature", alter: func(m *slotted, o *offer) {
			m.repo = tuftest.New(m.t)
			m.publish(o)
		}},
		"path that nobody signed": {rule: "tuf/target", alter: func(_ *slotted, o *offer) { o.path = "releases/gw/stable/6.6.6.json" }},
		"path with dots":          {rule: "tuf/target", alter: func(_ *slotted, o *offer) { o.path = "releases/gw/stable/../stable/1.1.0.json" }},
		"index that nobody signed": {rule: "tuf/target", alter: func(m *slotted, o *offer) {
			delete(m.repo.Targets["targets"].Signed.Targets, o.indexPath("rootfs"))
			m.sign(o)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newSlotted(t)
			o := newOffer("1.1.0", content(2))
			m.publish(o)
			c.alter(m, o)
			_, err := m.install(m.run(), o)
			m.wantRule(err, c.rule)
			m.wantSlot("b", nil)
		})
	}
}

// A role that may speak for one product's releases can't release another's there.
func TestDelegatedRoleStaysInItsPlace(t *testing.T) {
	m := newSlotted(t)
	o := newOffer("1.1.0", content(2))
	m.publish(o)
	m.repo.Delegate("targets", metadata.DelegatedRole{Name: "toasters", Paths: []string{"releases/toaster/*/*"}})
	m.repo.Targets["toasters"].Signed.Targets["releases/toaster/stable/1.1.0.json"] = m.target(o.path)
	delete(m.repo.Targets["targets"].Signed.Targets, o.path)
	m.repo.Publish("targets", "toasters", "snapshot", "timestamp")
	c := m.run()
	_, err := m.install(c, o)
	m.wantRule(err, "tuf/target")
	o.path = "releases/toaster/stable/1.1.0.json"
	_, err = m.install(c, o)
	m.wantRule(err, "path")
}

func TestPinnedRootThatOthersCouldWriteIsRefused(t *testing.T) {
	m := newSlotted(t)
	o := newOffer("1.1.0", content(2))
	m.publish(o)
	m.must(os.Chmod(filepath.Join(m.config.Trust, "root.json"), 0o666))
	if _, err := m.install(m.run(), o); err == nil {
		t.Error("it was believed")
	}
	m.wantSlot("b", nil)
}

// open begins a session by a good agent, up to the chunks.
func (m *slotted) open(c *client.Client, o *offer) *client.Install {
	m.t.Helper()
	i, err := c.Install(m.t.Context(), o.path, m.repo.Metadata())
	m.must(err)
	m.t.Cleanup(func() { i.Close() })
	m.must(i.Index(m.t.Context(), "rootfs", indexOf(m.t, o.images["rootfs"]).Encode()))
	_, err = i.Seed(m.t.Context(), nil, nil)
	m.must(err)
	return i
}

func TestOnlyChunksOfTheSignedIndexAreWritten(t *testing.T) {
	m := newSlotted(t)
	data := content(2)
	o := newOffer("1.1.0", data)
	m.publish(o)
	i, index := m.open(m.run(), o), indexOf(t, data)
	ctx := t.Context()
	good := piece(index, data, 9)
	altered := bytes.Clone(good)
	altered[len(altered)-1] ^= 1
	for name, c := range map[string]struct {
		n    int
		data []byte
	}{
		"altered": {9, altered}, "of another place": {10, good}, "short": {9, good[:len(good)-1]}, "long": {9, append(bytes.Clone(good), 0)},
		"empty": {9, nil}, "beyond the end": {index.Len(), good}, "far beyond": {1 << 30, good}, "negative": {-1, good},
	} {
		if err := i.Chunk(ctx, c.n, c.data); err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			m.wantRule(err, "chunk")
		}
	}
	m.wantSlot("b", make([]byte, len(data))) // room was made, and nothing written
	m.must(i.Chunk(ctx, 9, good))
	m.wantRule(i.Finish(ctx, nil), "incomplete")
	i.Close()
	m.wantRule(m.tryOnce("1.1.0"), "incomplete")
}

func (m *slotted) tryOnce(version string) error {
	return client.New(filepath.Join(m.dir, "helper.sock")).Try(m.t.Context(), version)
}

func TestIndexOfAnotherReleaseIsRefused(t *testing.T) {
	m := newSlotted(t)
	o := newOffer("1.1.0", content(2))
	m.publish(o)
	i, err := m.run().Install(t.Context(), o.path, m.repo.Metadata())
	m.must(err)
	defer i.Close()
	ctx := t.Context()
	own := indexOf(t, o.images["rootfs"]).Encode()
	m.wantRule(i.Chunk(ctx, 0, []byte("x")), "index")
	_, err = i.Seed(ctx, nil, nil)
	m.wantRule(err, "index")
	m.wantRule(i.Finish(ctx, nil), "incomplete")
	m.wantRule(i.Index(ctx, "rootfs", indexOf(t, content(3)).Encode()), "tuf/hash")
	m.wantRule(i.Index(ctx, "rootfs", own[:len(own)-40]), "tuf/length")
	m.wantRule(i.Index(ctx, "rootfs", nil), "tuf/length")
	m.wantRule(i.Index(ctx, "boot", own), "index")
	m.wantRule(i.Index(ctx, "../../slot-a/rootfs", own), "index")
	m.must(i.Index(ctx, "rootfs", own))
	_, err = i.Seed(ctx, []byte("no index"), nil)
	m.wantRule(err, "index")
}

// The owner's own slip: image and index don't belong together. What was written is
// never booted.
func TestImageThatIsNotTheSignedOneIsNotComplete(t *testing.T) {
	m := newSlotted(t)
	o := newOffer("1.1.0", content(2))
	m.publish(o)
	o.Images[0].SHA256 = release.Digest{1}
	m.sign(o)
	c := m.run()
	_, err := m.install(c, o)
	m.wantRule(err, "image")
	m.wantRule(c.Try(t.Context(), "1.1.0"), "incomplete")

	m = newSlotted(t)
	m.publish(o)
	o.Images[0].Size++
	m.sign(o)
	_, err = m.install(m.run(), o)
	m.wantRule(err, "index")
}

// What the owner made for the slot that runs is not written to the spare one, and
// does not become the spare one's by being signed alone.
func TestImageForTheRunningSlotNeverGetsIntoTheSpareOne(t *testing.T) {
	forA, forB := content(3), content(4)
	m := newSlotted(t)
	m.config.Updates.Loader = imager{m.config.Updates.Loader}
	o := newOffer("1.1.0", content(2))
	o.images["boot-a"] = forA
	m.publish(o)
	c := m.run()
	_, err := m.install(c, o)
	m.wantRule(err, "format")
	m.wantSlot("b", nil)
	slots, err := c.Slots(t.Context())
	m.must(err)
	if _, touched := slots.Slots["b"]; touched {
		t.Errorf("slot b is %+v", slots.Slots["b"])
	}
	o.images["boot-b"] = forB
	m.publish(o)
	i, err := c.Install(t.Context(), o.path, m.repo.Metadata())
	m.must(err)
	if n := len(i.Images()); n != 2 {
		t.Errorf("it asks for %d images", n)
	}
	m.wantRule(i.Index(t.Context(), "boot", indexOf(t, forA).Encode()), "tuf/hash")
	m.wantRule(i.Index(t.Context(), "boot-a", indexOf(t, forA).Encode()), "index")
	m.must(i.Close())
	_, err = m.install(c, o)
	m.must(err)
	if got, err := os.ReadFile(m.image("b", "boot")); err != nil || !bytes.Equal(got, forB) {
		t.Errorf("slot b holds %d bytes that are not its image (%v)", len(got), err)
	}
}

func TestSlotThatIsALinkOrTheRunningOneIsRefused(t *testing.T) {
	for name, plant := range map[string]func(m *slotted) error{
		"link":        func(m *slotted) error { return os.Symlink(m.image("a", "rootfs"), m.image("b", "rootfs")) },
		"second name": func(m *slotted) error { return os.Link(m.image("a", "rootfs"), m.image("b", "rootfs")) },
		"pipe":        func(m *slotted) error { return syscall.Mkfifo(m.image("b", "rootfs"), 0o600) },
		"folder":      func(m *slotted) error { return os.Mkdir(m.image("b", "rootfs"), 0o700) },
		"others write": func(m *slotted) error {
			return errors.Join(os.WriteFile(m.image("b", "rootfs"), nil, 0o600), os.Chmod(m.image("b", "rootfs"), 0o606))
		},
		"open folder": func(m *slotted) error { return os.Chmod(filepath.Join(m.slots, "slot-b"), 0o777) },
		"linked folder": func(m *slotted) error {
			return errors.Join(os.Remove(filepath.Join(m.slots, "slot-b")), os.Symlink("slot-a", filepath.Join(m.slots, "slot-b")))
		},
	} {
		m := newSlotted(t)
		o := newOffer("1.1.0", content(2))
		m.publish(o)
		m.must(plant(m))
		if _, err := m.install(m.run(), o); err == nil {
			t.Errorf("%s: was written through", name)
		}
		m.wantSlot("a", content(1))
		m.halt()
	}
}

// Ten thousand connections, in and out of sessions: at most maxConnections are
// held, and the helper serves on. A tenth without GATEWARDEN_LONG.
func TestTenThousandConnections(t *testing.T) {
	m := newSlotted(t)
	o := newOffer("1.1.0", content(2))
	m.publish(o)
	c := m.run()
	before, n := openFiles(t), 1000
	if os.Getenv("GATEWARDEN_LONG") != "" {
		n = 10_000
	}
	open := mustFrame(t, helperwire.Request{Version: 1, Verb: helperwire.VerbInstall, Target: o.path})
	for k := range n {
		conn := m.raw()
		if k%2 == 0 {
			_, _ = conn.Write(open) // and never answers
		}
		if k%maxConnections == maxConnections-1 {
			if _, err := c.Info(t.Context()); err != nil && !strings.Contains(err.Error(), "EOF") && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Fatal(err)
			}
		}
		conn.Close()
	}
	deadline := time.Now().Add(patience)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := c.Info(ctx)
		cancel()
		if err == nil && openFiles(t) <= before+maxConnections {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v; %d files open, %d before", err, openFiles(t), before)
		}
	}
}

// FuzzInstallStep: no frame and no bytes in a session panic, write or complete
// anything that the index doesn't name.
func FuzzInstallStep(f *testing.F) {
	data := content(2)
	good := piece(indexOf(f, data), data, 3)
	for _, r := range []helperwire.Request{
		{Version: 1, Verb: helperwire.StepChunk, Chunk: 3}, {Version: 1, Verb: helperwire.StepSeed}, {Version: 1, Verb: helperwire.StepFinish},
		{Version: 1, Verb: helperwire.StepIndex, Image: "rootfs"}, {Version: 1, Verb: helperwire.StepFile, Absent: true},
	} {
		request, err := json.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(request, good)
		f.Add(request, []byte{})
	}
	m := newSlotted(f)
	o := newOffer("1.1.0", data)
	m.publish(o)
	s, err := open(f.Context(), m.config)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, request, raw []byte) {
		image, err := slot.Folder{FS: m.config.FS, Path: m.slots}.Open("b", "a", o.Images[0])
		if err != nil {
			t.Fatal(err)
		}
		defer image.Close()
		if err := image.Index(indexOf(t, data).Encode()); err != nil {
			t.Fatal(err)
		}
		at := &install{server: s, release: &o.Release, slot: "b"}
		at.images = append(at.images, newImage(o.Images[0], image))
		at.at = at.images[0]
		var r helperwire.Request
		if helperwire.Read(bytes.NewReader(frame(string(request))), &r) != nil {
			return
		}
		for _, step := range installSteps() {
			if step.name != r.Verb || int64(len(raw)) > step.limit {
				continue
			}
			_, _ = step.do(at, t.Context(), r, raw)
		}
		got, err := os.ReadFile(m.image("b", "rootfs"))
		if err != nil || len(got) != len(data) {
			t.Fatalf("the slot has %d bytes, %v", len(got), err)
		}
		for k := range got {
			if got[k] != 0 && got[k] != data[k] {
				t.Fatalf("byte %d of the slot is neither the image's nor empty", k)
			}
		}
	})
}
