// Package slot writes images into the slot that does not run.
//
// Its promise: only bytes whose digest the image's index names for their place are
// written, from memory that nobody else can change; and an image that Whole
// accepted lies on the disk as its owner signed it. It never opens the storage of
// the running slot for writing, follows no link, and decompresses nothing.
package slot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/helper/trust"
	"github.com/gatewarden/gatewarden/internal/fsx"
)

// Error says why storage or bytes were refused.
type Error struct {
	Rule string // slot, index, chunk, incomplete, image
	Text string // a sentence
}

func (e *Error) Error() string { return e.Text }

func refuse(rule, format string, args ...any) error {
	return &Error{Rule: rule, Text: fmt.Sprintf(format, args...)}
}

// Folder holds the slots: slot-a and slot-b, in each KIND.img for each image of a
// release, a regular file or a block device. All are root's.
type Folder struct {
	FS      *fsx.FS // its Hook also sees each write into a slot
	Path    string
	Devices Devices
}

// Devices names the block devices that take the place of KIND.img, by kind, then by
// slot: a path below /dev. Links in it are udev's.
type Devices map[string]map[string]string

// Check refuses names that can't be right on any machine.
func (d Devices) Check() error {
	for kind, slots := range d {
		for _, path := range slots {
			if filepath.Clean(path) != path || !strings.HasPrefix(path, "/dev/") {
				return fmt.Errorf("devices.%s: %.100q is no path below /dev", kind, path)
			}
		}
		if len(slots) != 2 || slots["a"] == "" || slots["b"] == "" || slots["a"] == slots["b"] {
			return fmt.Errorf("devices.%s must name one device for a and another for b", kind)
		}
	}
	return nil
}

// image is where a slot keeps an image of one kind. Both are words that were
// checked: slot by the loader, kind by package release.
func (f Folder) image(slot, kind string) string {
	return filepath.Join(f.Path, "slot-"+slot, kind+".img")
}

// device follows the links to a slot's block device, once; "" if it has none.
func (f Folder) device(slot, kind string) (string, error) {
	name := f.Devices[kind][slot]
	if name == "" {
		return "", nil
	}
	path, err := filepath.EvalSymlinks(name)
	if err != nil {
		return "", fmt.Errorf("find device of slot %s: %w", slot, err)
	}
	info, err := os.Lstat(path)
	if err == nil && info.Mode().Type() != fs.ModeDevice {
		err = fmt.Errorf("%s, which is %s, is no block device", name, path)
	}
	return path, err
}

// notRoot refuses the device that the running system is on, whatever names it. It
// is not opened for that.
func notRoot(device string) error {
	var disk, root unix.Stat_t
	if err := errors.Join(unix.Stat(device, &disk), unix.Stat("/", &root)); err != nil {
		return err
	}
	if disk.Rdev == root.Dev {
		return refuse("slot", "The spare slot %s is the running root file system.", device)
	}
	return nil
}

// open opens the spare slot's storage for writing, with room for size bytes.
// running is the storage of the running slot, nil if it has none of this kind: the
// same under another name is refused, and so is the device that / is on.
func (f Folder) open(slot, kind string, size int64, running *os.File) (*os.File, error) {
	path, err := f.device(slot, kind)
	switch {
	case err != nil:
		return nil, err
	case path == "":
		path = f.image(slot, kind)
		err = f.own(filepath.Dir(path))
	default:
		err = notRoot(path)
	}
	if err != nil {
		return nil, err
	}
	// For a device O_EXCL makes the kernel refuse one that is mounted.
	file, err := openStorage(path, os.O_RDWR|syscall.O_EXCL)
	if errors.Is(err, fs.ErrNotExist) && path == f.image(slot, kind) {
		if err := f.FS.WriteFile(path, nil, 0o600); err != nil {
			return nil, err
		}
		file, err = openStorage(path, os.O_RDWR)
	}
	if err != nil {
		return nil, err
	}
	if err := prepare(file, size, running); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// own makes sure that a slot's folder is there, and root's.
func (f Folder) own(folder string) error {
	if err := f.FS.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	return errors.Join(trust.CheckOwner(f.Path), trust.CheckOwner(folder))
}

// openRunning opens what the running slot holds of kind, nil if there is none: it
// only saves bytes.
func (f Folder) openRunning(slot, kind string) (*os.File, error) {
	path, err := f.device(slot, kind)
	if err != nil {
		return nil, err
	}
	if path == "" {
		path = f.image(slot, kind)
	}
	file, err := openStorage(path, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return file, err
}

// openStorage opens a regular file or a block device, and nothing else.
func openStorage(path string, flags int) (*os.File, error) {
	file, err := os.OpenFile(path, flags|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	switch {
	case err != nil:
	case info.Mode().IsRegular():
		err = trust.CheckOwner(path)
	case info.Mode().Type() != fs.ModeDevice:
		err = fmt.Errorf("%s is neither regular file nor block device", path)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// prepare makes sure that file is not what runs, and has room. A regular file gets
// the size of the image exactly: nothing unsigned is left behind it.
func prepare(file *os.File, size int64, running *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if running != nil {
		other, err := running.Stat()
		if err != nil {
			return err
		}
		if same(info, other) {
			return refuse("slot", "The spare slot %s is the running one.", file.Name())
		}
	}
	if info.Mode().IsRegular() {
		return file.Truncate(size)
	}
	room, err := file.Seek(0, io.SeekEnd)
	if err == nil && room < size {
		err = refuse("slot", "The image has %d bytes, slot %s has room for %d.", size, file.Name(), room)
	}
	return err
}

func same(a, b os.FileInfo) bool {
	x, xok := a.Sys().(*syscall.Stat_t)
	y, yok := b.Sys().(*syscall.Stat_t)
	if !xok || !yok || os.SameFile(a, b) {
		return true
	}
	return a.Mode().Type() == fs.ModeDevice && b.Mode().Type() == fs.ModeDevice && x.Rdev == y.Rdev
}

// settle makes what was written durable, and forgets the cached copy, so that
// what is read next comes from the disk.
func (f Folder) settle(file *os.File) error {
	if err := f.fault(fsx.OpSync, file.Name()); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	// Only advice: where it is not taken, the copy in memory is read.
	_ = unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED)
	return nil
}

// fault is the fault seam of writes in place, which fsx does not have.
func (f Folder) fault(op, path string) error {
	if f.FS.Hook == nil {
		return nil
	}
	return f.FS.Hook(op, path)
}

var _ error = (*Error)(nil)
