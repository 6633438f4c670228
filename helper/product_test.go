package helper

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/gatewarden/gatewarden/helper/slot"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/update/boot"
)

func TestProductFileNamesDevicesAndSystemPartition(t *testing.T) {
	path := filepath.Join(t.TempDir(), "product.json")
	load := func(more string) (*Product, error) {
		data := `{"v":1,"product":"gw","channel":"stable","hardware":"box-1","version":"1.0.0","epoch":1` + more + `}`
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
		return LoadProduct(&fsx.FS{}, path)
	}
	if _, err := LoadProduct(&fsx.FS{}, path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	p, err := load(`,"esp":"/efi","devices":{"rootfs":{"a":"/dev/vda2","b":"/dev/vda3"}}`)
	if err != nil || p.ESP != "/efi" || p.Devices["rootfs"]["b"] != "/dev/vda3" {
		t.Errorf("product is %+v, %v", p, err)
	}
	if p, err := load(""); err != nil || p.ESP != "" || p.Devices != nil {
		t.Errorf("product is %+v, %v", p, err)
	}
	for _, more := range []string{
		`,"esp":"efi"`, `,"esp":"/boot/../etc"`, `,"ESP":"/efi"`, `,"esp":"/efi","esp":"/boot"`,
		`,"devices":{"rootfs":{"a":"/dev/vda2"}}`, `,"devices":{"rootfs":{"a":"/dev/vda2","b":"/dev/vda2"}}`, `,"devices":{"rootfs":"/dev/vda2"}`,
		`,"device":{}`,
	} {
		if _, err := load(more); err == nil {
			t.Errorf("%s: accepted", more)
		}
	}
}

// imager is a boot loader that starts an image of the release.
type imager struct{ boot.Loader }

func (imager) Image() string { return "boot" }

// A kernel that an earlier release left in the slot must not start a later root
// file system.
func TestReleaseWithoutTheImageThatBootsIsRefused(t *testing.T) {
	m := newSlotted(t)
	m.config.Updates.Loader = imager{m.config.Updates.Loader}
	o := newOffer("1.1.0", content(2))
	m.publish(o)
	_, err := m.install(m.run(), o)
	m.wantRule(err, "image")
	m.wantSlot("b", nil)
	m.halt()
	m.config.Updates.Loader = imager{boot.All(boot.Deps{FS: m.config.FS, Folder: m.slots})[0].Loader}
	o.images["boot"] = []byte("a kernel")
	m.publish(o)
	_, err = m.install(m.run(), o)
	m.must(err)
}

// What the product file calls a device is never a file beside the others.
func TestSlotWithoutItsDeviceIsNotWritten(t *testing.T) {
	m := newSlotted(t)
	p := Product{Format: 1, Product: "gw", Channel: "stable", Hardware: "box-1", Version: "1.0.0", Epoch: 1}
	p.Devices = slot.Devices{"rootfs": {"a": "/dev/disk/by-partlabel/none-a", "b": "/dev/disk/by-partlabel/none-b"}}
	m.writeTrust("product.json", p)
	o := newOffer("1.1.0", content(2))
	m.publish(o)
	if _, err := m.install(m.run(), o); err == nil {
		t.Error("it was installed")
	}
	m.wantSlot("b", nil)
	m.wantBoot("a")
}
