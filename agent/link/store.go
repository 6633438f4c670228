package link

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// errDamaged says that the file holds something that nobody wrote.
var errDamaged = errors.New("file is damaged")

const (
	storeFormat = "1" // of the file; a later release reads this one for ever
	lockTimeout = 2 * time.Second
	pageSize    = 4096 // bytes
)

// store is the file. One goroutine updates; reads may run beside it. One that
// was found damaged at work is never closed: the library may have left its locks held
// when it panicked, and would wait for ever.
type store struct{ db *bbolt.DB }

// openStore opens or makes the file and reads it whole, so that damage shows now.
func openStore(path string) (*store, streams, error) {
	var now streams
	s := &store{}
	err := guard(func() (err error) {
		// The list of free pages stays in the file: without it the library scans
		// the file at opening in a goroutine where a damaged page can't be caught.
		s.db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout, PageSize: pageSize, NoStatistics: true, OpenFile: openChecked})
		if err != nil {
			return damage(err)
		}
		if now, err = s.load(); err != nil {
			return err
		}
		return syncDir(filepath.Dir(path))
	})
	if err != nil {
		if s.db != nil && !errors.Is(err, errDamaged) {
			_ = s.close()
		}
		return nil, streams{}, err
	}
	return s, now, nil
}

// damage tells a file that can't be right from a machine that can't read it.
func damage(err error) error {
	var path *fs.PathError
	var errno syscall.Errno
	if errors.As(err, &path) || errors.As(err, &errno) || errors.Is(err, bbolterrors.ErrTimeout) {
		return err
	}
	return fmt.Errorf("%w: %w", errDamaged, err)
}

// guard turns what the library does about a damaged page (a panic, or a read
// outside the mapped file) into an error.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errDamaged, r)
		}
	}()
	return f()
}

func (s *store) read(c class, seq uint64) (r record, err error) {
	err = guard(func() error {
		return s.db.View(func(tx *bbolt.Tx) (err error) {
			r, err = decodeRecord(tx.Bucket(bucketName(c)).Get(seqKey(seq)))
			return err
		})
	})
	return r, err
}

func (s *store) update(f func(*storeTx) error) error {
	return guard(func() error {
		err := s.db.Update(func(tx *bbolt.Tx) error { return f(&storeTx{tx}) })
		if errors.Is(err, syscall.EFBIG) { // a page number that can't be: limits keep the file small
			return fmt.Errorf("%w: %w", errDamaged, err)
		}
		return err
	})
}

func (s *store) close() error { return guard(s.db.Close) }

func moveAside(path, aside string) error {
	if err := os.Rename(path, aside); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
