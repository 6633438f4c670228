package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	bbolterrors "go.etcd.io/bbolt/errors"
)

// openChecked opens the file for the library: not through a symlink, alone, and
// only if no page claims to be longer than the file. The library believes that
// length and would count to it, page by page.
func openChecked(path string, flag int, perm os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flag|syscall.O_NOFOLLOW, perm)
	if err != nil {
		return nil, err
	}
	if err = lock(f); err == nil {
		err = checkPages(f)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// lock takes the lock that the library takes again on the same descriptor.
func lock(f *os.File) error {
	for deadline := time.Now().Add(lockTimeout); ; time.Sleep(lockTimeout / 20) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("another process holds it: %w", bbolterrors.ErrTimeout)
		}
	}
}

// checkPages looks at each page's header: number (8 bytes, in the byte order of
// the machine), flags (2), count (2), pages that follow as its overflow (4).
// A page that names another number is caught by the library, or free.
func checkPages(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	pages := uint64(info.Size() / pageSize)
	header := make([]byte, 16)
	for i := range pages {
		if _, err := f.ReadAt(header, int64(i)*pageSize); err != nil && err != io.EOF {
			return err
		}
		if binary.NativeEndian.Uint64(header) == i && i+uint64(binary.NativeEndian.Uint32(header[12:])) >= pages {
			return fmt.Errorf("%w: page %d is longer than the file", errDamaged, i)
		}
	}
	return nil
}
