package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Disk is what a new gateway has: a release in slot a, and in the root file system
// of slot b whatever stood there before.
type Disk struct {
	A      Built
	Spare  string            // image of slot b's root file system
	Loader map[string]string // files of the EFI system partition by path, instead of the usual: contents are host paths
}

const partitions = `label: gpt
start=1MiB, size=%dMiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp
size=%[2]dMiB, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=slot-a
size=%[2]dMiB, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=slot-b
size=%[3]dMiB, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name=data
`

// Partition is where a partition lies on the disk, in bytes.
func Partition(name string) (offset, size int64) {
	at := int64(1)
	for _, p := range layout() {
		if p.name == name {
			return at << 20, p.size << 20
		}
		at += p.size
	}
	return 0, 0
}

type partition struct {
	name string
	size int64 // MiB
}

func layout() []partition {
	return []partition{{"esp", espSize}, {"slot-a", slotSize}, {"slot-b", slotSize}, {"data", dataSize}}
}

// Disk makes the image of a whole disk, or finds it in the cache. It returns its
// path.
func (c *Cache) Disk(d Disk) (string, error) {
	system, err := c.system(d.A.Deb)
	if err != nil {
		return "", err
	}
	own, err := source()
	if err != nil {
		return "", err
	}
	key := []any{own, d.A.Dir, filepath.Dir(d.Spare), d.Loader}
	dir, err := c.Get("disk", key, func(dir string) error {
		esp, data := filepath.Join(dir, "esp"), filepath.Join(dir, "data")
		defer os.Remove(esp)
		defer os.Remove(data)
		return errors.Join(
			makeESP(esp, d), makeData(data, filepath.Join(system, "root/var/lib"), d.A.UKI("a")),
			assemble(filepath.Join(dir, "disk.raw"), map[string]string{"esp": esp, "slot-a": d.A.Rootfs, "slot-b": d.Spare, "data": data}))
	})
	return filepath.Join(dir, "disk.raw"), err
}

func makeESP(path string, d Disk) error {
	conf := path + ".conf"
	defer os.Remove(conf)
	files := map[string]string{"EFI/BOOT/BOOTX64.EFI": d.A.Loader, "EFI/Linux/gw-a.efi": d.A.UKI("a"), "loader/loader.conf": conf}
	if d.Loader != nil {
		files = d.Loader
	}
	err := errors.Join(
		os.WriteFile(conf, []byte("timeout 0\nconsole-mode keep\neditor no\n"), 0o644),
		os.WriteFile(path, nil, 0o644), os.Truncate(path, espSize<<20), run("mkfs.vfat", "-F", "32", "-n", "ESP", path),
		run("mmd", "-i", path, "::/EFI", "::/EFI/BOOT", "::/EFI/Linux", "::/loader", "::/loader/entries"))
	if err != nil {
		return err
	}
	for _, to := range sorted(files) {
		if err := run("mcopy", "-i", path, files[to], "::/"+to); err != nil {
			return err
		}
	}
	return nil
}

// makeData makes the partition that outlives a slot: /var/lib. The factory leaves a
// copy of the boot image where the helper keeps such, so that an update need not fetch
// all of the next one.
func makeData(path, content, uki string) error {
	tree := path + ".tree"
	defer os.RemoveAll(tree)
	staging := filepath.Join(tree, "gatewarden-helper/slots/slot-a")
	err := errors.Join(run("cp", "-al", content, tree), run("mkdir", "-p", "-m", "0700", filepath.Join(tree, "gatewarden-helper"), staging),
		run("cp", uki, filepath.Join(staging, "boot.img")))
	if err != nil {
		return err
	}
	return run("mkfs.ext4", "-q", "-F", "-m", "0", "-L", "data", "-U", strings.Replace(RootUUID, "6f0c", "da7a", 1),
		"-E", "lazy_itable_init=0,lazy_journal_init=0", "-d", tree, path, fmt.Sprintf("%dM", dataSize))
}

func assemble(disk string, images map[string]string) error {
	total := int64(2)
	for _, p := range layout() {
		total += p.size
	}
	if err := errors.Join(os.WriteFile(disk, nil, 0o644), os.Truncate(disk, total<<20)); err != nil {
		return err
	}
	if _, err := output([]byte(fmt.Sprintf(partitions, espSize, slotSize, dataSize)), "sfdisk", "-q", disk); err != nil {
		return err
	}
	for _, p := range layout() {
		offset, _ := Partition(p.name)
		if err := run("dd", "if="+images[p.name], "of="+disk, "bs=1M", fmt.Sprintf("seek=%d", offset>>20), "conv=notrunc,sparse", "status=none"); err != nil {
			return err
		}
	}
	return nil
}
