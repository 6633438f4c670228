// Package trust reads what the helper believes without a signature: files that
// nobody but root could have written.
package trust

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/gatewarden/gatewarden/internal/fsx"
)

// Read reads the file at path, of at most limit bytes, if CheckOwner accepts it
// and its folder.
func Read[T any](fs *fsx.FS, path string, limit int64, parse func([]byte) (*T, error)) (*T, error) {
	for _, p := range []string{filepath.Dir(path), path} {
		if err := CheckOwner(p); err != nil {
			return nil, err
		}
	}
	data, err := fs.ReadFile(path, limit)
	if err != nil {
		return nil, err
	}
	return parse(data)
}

// CheckOwner refuses what anybody but root, or the user that we run as, could
// have written. A link is nobody's document.
func CheckOwner(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok || !info.IsDir() && !info.Mode().IsRegular():
		return fmt.Errorf("%s is neither folder nor regular file", path)
	case stat.Uid != 0 && int(stat.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to user %d; it must be root's", path, stat.Uid)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s may be written by others (mode %04o); run chmod go-w", path, info.Mode().Perm())
	}
	return nil
}
