// Package fsx does durable file work: after a call returned nil its effect
// survives a power cut, and at no moment does a reader, or the next start, see
// a file that is half of one write and half of another.
//
// Every step is an op that a test can make fail. No call follows a symbolic link
// in the last element of its path, opens a device or blocks on a named pipe, so
// that whoever may write to a state folder can't make us write elsewhere.
package fsx

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/gatewarden/gatewarden/internal/strictjson"
)

// Ops that a Hook sees, in the order in which a first WriteFile makes them.
const (
	OpMkdir   = "mkdir"
	OpCreate  = "create"
	OpWrite   = "write"
	OpSync    = "sync"
	OpRename  = "rename"
	OpSyncDir = "syncdir"
	OpRemove  = "remove"
)

// ErrDamaged says that a file is there and is not what we would have written:
// unreadable JSON, too large, or no regular file. WriteFile replaces such a file.
var ErrDamaged = errors.New("file is damaged")

// FS does all durable file work. The zero value is ready to use, and safe for
// concurrent use, also by several processes.
type FS struct {
	// Hook is called before each op acts, and its error makes the op fail. It
	// is nil in production.
	Hook func(op, path string) error
}

func (f *FS) hook(op, path string) error {
	if f.Hook == nil {
		return nil
	}
	if err := f.Hook(op, path); err != nil {
		return &os.PathError{Op: op, Path: path, Err: err}
	}
	return nil
}

// ReadFile returns the contents of a regular file of at most limit bytes. Any
// other kind of file, or a larger one, is an error that wraps ErrDamaged; an
// absent one wraps fs.ErrNotExist.
func (f *FS) ReadFile(path string, limit int64) ([]byte, error) {
	file, err := openRegular(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s: larger than %d bytes: %w", path, limit, ErrDamaged)
	}
	return data, nil
}

// WriteJSON writes v, indented for people, as WriteFile does.
func (f *FS) WriteJSON(path string, v any, perm os.FileMode) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	return f.WriteFile(path, append(data, '\n'), perm)
}

// ReadJSON reads what WriteJSON wrote, in a later release too (docs/adr/034). v is unchanged on error.
func (f *FS) ReadJSON(path string, limit int64, v any) error {
	data, err := f.ReadFile(path, limit)
	if err != nil {
		return err
	}
	if err := strictjson.Inform(data, v); err != nil {
		return fmt.Errorf("decode %s: %w: %w", path, err, ErrDamaged)
	}
	return nil
}

// Remove removes a file or an empty folder. An absent one wraps fs.ErrNotExist.
func (f *FS) Remove(path string) error {
	if err := f.hook(OpRemove, path); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return f.syncDir(filepath.Dir(path))
}

// Rename moves a file within its folder's file system, over whatever is there.
// A regular file is synced too: see WriteFrom.
func (f *FS) Rename(from, to string) error {
	if err := f.hook(OpRename, to); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	if err := f.syncRenamed(to); err != nil {
		return err
	}
	if err := f.syncDir(filepath.Dir(to)); err != nil {
		return err
	}
	if filepath.Dir(from) == filepath.Dir(to) {
		return nil
	}
	return f.syncDir(filepath.Dir(from))
}

func (f *FS) syncRenamed(path string) error {
	file, err := openRegular(path, os.O_RDONLY, 0)
	if errors.Is(err, ErrDamaged) { // a folder, or a link that was planted: only its name matters
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	return f.sync(file, path)
}

// MkdirAll makes a folder and those above it; perm is exact (no umask) for the
// ones that it makes.
func (f *FS) MkdirAll(path string, perm os.FileMode) error {
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return &os.PathError{Op: OpMkdir, Path: path, Err: syscall.ENOTDIR}
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := f.MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	if err := f.hook(OpMkdir, path); err != nil {
		return err
	}
	if err := os.Mkdir(path, perm); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := os.Chmod(path, perm); err != nil {
		return err
	}
	return f.syncDir(parent)
}

func (f *FS) syncDir(path string) error {
	if err := f.hook(OpSyncDir, path); err != nil {
		return err
	}
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	// A file system that can't sync a folder says EINVAL; there is nothing more to do then.
	if err := dir.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

// openRegular opens path if it is a regular file with one name. O_NONBLOCK keeps
// a planted pipe from blocking us.
func openRegular(path string, flag int, perm os.FileMode) (*os.File, error) {
	file, err := os.OpenFile(path, flag|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, perm)
	switch {
	case errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENXIO):
		return nil, fmt.Errorf("open %s: not a regular file: %w", path, ErrDamaged)
	case err != nil:
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("open %s: not a regular file: %w", path, ErrDamaged)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}
