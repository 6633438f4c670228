package fsx

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// tempTries bounds how often a temporary file is sought: it is lost when
// another writer of the same path renamed it away, which is rare.
const tempTries = 1000

// WriteFile replaces path by a file with these contents and exactly this mode:
// whoever reads it, at any time, finds the old file or the new one, whole.
//
// The temporary file has one name per path, so that power cuts leave at most one
// behind; writers of the same path wait for each other.
func (f *FS) WriteFile(path string, data []byte, perm os.FileMode) error {
	return f.write(path, bytes.NewReader(data), perm, false)
}

// WriteFrom does what WriteFile does, with what it reads from source, and its
// promise holds on FAT too: there a file's size and place are in its folder, and the
// renamed file's reach the disk with the file, not with the folder.
func (f *FS) WriteFrom(path string, source io.Reader, perm os.FileMode) error {
	return f.write(path, source, perm, true)
}

func (f *FS) write(path string, source io.Reader, perm os.FileMode, again bool) error {
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
	if err := f.hook(OpCreate, path); err != nil {
		return err
	}
	file, err := openTemp(temp, perm)
	if err != nil {
		return fmt.Errorf("create temporary file for %s: %w", path, err)
	}
	defer file.Close()
	if err := f.fill(file, path, source); err != nil {
		os.Remove(temp)
		return err
	}
	if err := f.hook(OpRename, path); err != nil {
		os.Remove(temp)
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		os.Remove(temp)
		return err
	}
	if again {
		if err := f.sync(file, path); err != nil {
			return err
		}
	}
	return f.syncDir(filepath.Dir(path))
}

func (f *FS) fill(file *os.File, path string, source io.Reader) error {
	if err := f.hook(OpWrite, path); err != nil {
		return err
	}
	if _, err := io.Copy(file, source); err != nil {
		return err
	}
	return f.sync(file, path)
}

func (f *FS) sync(file *os.File, path string) error {
	if err := f.hook(OpSync, path); err != nil {
		return err
	}
	return file.Sync()
}

// openTemp returns an empty, locked file that is at name and is nobody else's.
// Whatever else was planted there is removed, never written through.
func openTemp(name string, perm os.FileMode) (*os.File, error) {
	for range tempTries {
		file, err := openRegular(name, os.O_WRONLY|os.O_CREATE, 0o600)
		if errors.Is(err, ErrDamaged) || errors.Is(err, os.ErrPermission) {
			if os.Remove(name) != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		ours, err := claim(file, name, perm)
		if ours {
			return file, nil
		}
		file.Close()
		if err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%s is taken away each time", name)
}

// claim locks file and says whether it is still at name and has no other name.
func claim(file *os.File, name string, perm os.FileMode) (bool, error) {
	if err := flock(file); err != nil {
		return false, err
	}
	open, err := file.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Lstat(name)
	if errors.Is(err, os.ErrNotExist) || err == nil && !os.SameFile(open, there) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if stat, ok := open.Sys().(*syscall.Stat_t); !ok || stat.Nlink != 1 || int(stat.Uid) != os.Geteuid() {
		return false, os.Remove(name)
	}
	if err := file.Chmod(perm); err != nil {
		return false, err
	}
	return true, file.Truncate(0)
}

// flock waits for the lock on an open file; closing the file gives it up.
func flock(file *os.File) error {
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// Append adds data to the end of a file, and creates it with mode perm if there
// is none. When it fails the file is cut back to what it was if that is still
// possible; a power cut may leave the beginning of data at its end.
func (f *FS) Append(path string, data []byte, perm os.FileMode) error {
	if err := f.hook(OpCreate, path); err != nil {
		return err
	}
	file, err := openRegular(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, perm)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if err := f.fill(file, path, bytes.NewReader(data)); err != nil {
		return errors.Join(err, file.Truncate(info.Size()))
	}
	if info.Size() > 0 {
		return nil
	}
	// The name of a file that was empty may not have reached the disk yet.
	return f.syncDir(filepath.Dir(path))
}

// Truncate cuts a file back to size bytes: what a log does with the torn end that
// a power cut left.
func (f *FS) Truncate(path string, size int64) error {
	if err := f.hook(OpWrite, path); err != nil {
		return err
	}
	file, err := openRegular(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Truncate(size); err != nil {
		return err
	}
	return f.sync(file, path)
}
