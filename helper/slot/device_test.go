package slot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// node makes a device node with the number of / and returns its path.
func node(t *testing.T, mode uint32) string {
	t.Helper()
	var root unix.Stat_t
	must(t, unix.Stat("/", &root))
	path := filepath.Join(t.TempDir(), "disk")
	if err := unix.Mknod(path, mode|0o600, int(root.Dev)); err != nil {
		t.Skipf("device nodes can't be made here: %v", err)
	}
	return path
}

// link makes another name of path, as udev does.
func link(t *testing.T, path string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "slot-b")
	must(t, os.Symlink(path, name))
	return name
}

// Whatever the product file says, the device that / is on is not opened for writing.
func TestRunningRootIsNeverTheSpareSlot(t *testing.T) {
	f := newFolder(t)
	f.Devices = Devices{"rootfs": {"b": link(t, node(t, unix.S_IFBLK))}}
	_, err := f.Open("b", "a", about(noise("A")))
	wantRule(t, err, "slot")
	if err == nil || !strings.Contains(err.Error(), "running root file system") {
		t.Errorf("error is %v", err)
	}
}

// A kind that has a device is never a file: not if the device is missing, not if
// something else has its name.
func TestOnlyABlockDeviceIsADevice(t *testing.T) {
	regular := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(regular, nil, 0o600))
	for name, path := range map[string]string{
		"missing": "/dev/disk/by-partlabel/none-of-this-name", "dangling": link(t, regular+"-none"), "regular file": link(t, regular),
		"folder": link(t, t.TempDir()), "character device": "/dev/null", "pty": node(t, unix.S_IFCHR),
	} {
		for _, slots := range []map[string]string{{"b": path}, {"a": path}} {
			f := newFolder(t)
			f.Devices = Devices{"rootfs": slots}
			if m, err := f.Open("b", "a", about(noise("A"))); err == nil {
				m.Close()
				t.Errorf("%s: opened as %v", name, slots)
			}
			if _, err := os.Lstat(f.image("b", "rootfs")); slots["b"] != "" && err == nil {
				t.Errorf("%s: a file was made in its place", name)
			}
		}
	}
	if info, err := os.Stat(regular); err != nil || info.Size() != 0 {
		t.Error("the regular file was written to")
	}
}

func TestDevicesThatCanNotBeRight(t *testing.T) {
	const a, b = "/dev/disk/by-partlabel/slot-a", "/dev/disk/by-partlabel/slot-b"
	must(t, Devices{"rootfs": {"a": a, "b": b}, "verity": {"a": "/dev/vda4", "b": "/dev/vda5"}}.Check())
	must(t, Devices(nil).Check())
	for name, d := range map[string]Devices{
		"one slot": {"rootfs": {"a": a}}, "same": {"rootfs": {"a": a, "b": a}}, "third slot": {"rootfs": {"a": a, "b": b, "c": "/dev/vda9"}},
		"unknown slots": {"rootfs": {"x": a, "y": b}}, "a file": {"rootfs": {"a": a, "b": "/etc/shadow"}}, "dots": {"rootfs": {"a": a, "b": "/dev/../etc/shadow"}},
		"relative": {"rootfs": {"a": a, "b": "dev/vda3"}}, "empty": {"rootfs": {"a": a, "b": ""}},
	} {
		if d.Check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// The slots' folders need not be there before the first install.
func TestSlotFolderIsMade(t *testing.T) {
	f := newFolder(t)
	f.Path = filepath.Join(f.Path, "new")
	m, err := f.Open("b", "a", about(noise("A")))
	must(t, err)
	must(t, m.Close())
	if info, err := os.Stat(filepath.Join(f.Path, "slot-b")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("slot folder: %v, %v", info, err)
	}
}
