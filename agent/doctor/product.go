package doctor

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// product is whether the machine is laid out for updates as product.json says.
func product() *Check {
	return &Check{
		Name: "product", About: "product.json, the slots and the EFI system partition that it names", For: "update seal",
		Cases: `
none problem update seal
Nothing says what this machine is, so the helper installs no release, and nothing can be sealed.
Write /etc/gatewarden/product.json (docs/updates.md, "Machines with systemd-boot"). A gateway that is to do neither needs none.

refused problem update seal
The helper does not believe this file, and installs nothing.
Correct what is said here; the file and its folder must be root's, and writable by nobody else.

slot problem update
A slot is not there: a release would have nowhere to go.
Make the partition, or correct "devices" in product.json. "ls -l /dev/disk/by-partlabel" shows what labels there are.

esp problem update
The EFI system partition is not mounted where product.json says: the helper can't put a kernel image there.
Mount it (systemd-gpt-auto-generator does it at /efi or /boot), for root alone: umask=0077. Or correct "esp".

esp-read-only problem update
The EFI system partition can't be written to.
Mount it read-write. If it was read-write before, look at dmesg: Linux does that to a damaged FAT; run fsck.vfat.

esp-full problem update
The next release's kernel image would not fit beside the one that runs.
Remove from the partition what is not the boot loader's or a slot's. There should be room for two kernel images and as much again.
`,
		Look: lookAtProduct,
	}
}

func lookAtProduct(_ context.Context, m *Machine, n *notes) {
	p, err := m.Product()
	switch {
	case absent(err):
		n.is("none", "there is no %s", ProductFile)
	case errors.Is(err, fs.ErrPermission):
		n.unseen("read "+ProductFile, err)
	case err != nil:
		n.is("refused", "%v", err)
	}
	if err != nil {
		return
	}
	lookAtSlots(m, p, n)
	if p.ESP != "" {
		lookAtESP(m, p.ESP, n)
	}
	n.ok("%s, its slots and EFI system partition are there", ProductFile)
}

func lookAtSlots(m *Machine, p Product, n *notes) {
	for _, kind := range slices.Sorted(maps.Keys(p.Devices)) {
		for _, slot := range slices.Sorted(maps.Keys(p.Devices[kind])) {
			path := p.Devices[kind][slot]
			switch block, err := m.Kernel.Block(m.at(path)); {
			case absent(err):
				n.is("slot", "%s of slot %s: there is no %s", kind, slot, path)
			case err != nil:
				n.unseen("look at "+path, err)
			case !block:
				n.is("slot", "%s of slot %s: %s is no block device", kind, slot, path)
			}
		}
	}
}

// lookAtESP reads the folder first: that mounts what is mounted when it is used.
func lookAtESP(m *Machine, path string, n *notes) {
	largest, spare, err := images(m.at(filepath.Join(path, "EFI", "Linux")))
	if err != nil && !absent(err) {
		n.unseen("look at the EFI system partition", err)
		return
	}
	if absent(err) {
		n.is("esp", "there is no %s/EFI/Linux", path)
		return
	}
	v, err := m.Kernel.Volume(m.at(path))
	switch {
	case err != nil:
		n.unseen("look at the EFI system partition", err)
		return
	case v.Kind != unix.MSDOS_SUPER_MAGIC:
		n.is("esp", "%s is no mounted FAT file system", path)
		return
	case v.ReadOnly:
		n.is("esp-read-only", "%s is mounted read-only", path)
		return
	case v.Free+spare < largest:
		n.is("esp-full", "%s has %s free, the largest kernel image has %s", path, size(v.Free), size(largest))
	}
}

// images are the largest kernel image and the smallest one of two slots, which the
// next release replaces, in bytes.
func images(folder string) (largest, spare uint64, err error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return 0, 0, err
	}
	var sizes []uint64
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && strings.HasPrefix(entry.Name(), "gw-") && strings.HasSuffix(entry.Name(), ".efi") {
			sizes = append(sizes, uint64(info.Size()))
		}
	}
	if len(sizes) == 0 {
		return 0, 0, nil
	}
	if len(sizes) > 1 {
		spare = slices.Min(sizes)
	}
	return slices.Max(sizes), spare, nil
}
