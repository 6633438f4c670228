package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// readers is how many queries run beside the one writer.
const readers = 4

var sqlite = dialect{text: "TEXT", blob: "BLOB", id: "INTEGER PRIMARY KEY AUTOINCREMENT"}

// OpenSQLite opens the database at path and brings its schema up to date; a
// missing file is created, readable by its owner only. ErrTooNew if a later
// release has changed the schema.
func OpenSQLite(path string) (*Store, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open registry: %w", err)
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open registry: %w", err)
	}
	if err := file.Close(); err != nil {
		return nil, fmt.Errorf("open registry: %w", err)
	}
	s := &Store{}
	if s.writer, err = sql.Open("sqlite", sqliteDSN(path, false)); err != nil {
		return nil, fmt.Errorf("open registry %s: %w", path, err)
	}
	if s.reader, err = sql.Open("sqlite", sqliteDSN(path, true)); err != nil {
		return nil, errors.Join(fmt.Errorf("open registry %s: %w", path, err), s.writer.Close())
	}
	// SQLite has one writer; waiting in Go is fairer than its busy loop.
	s.writer.SetMaxOpenConns(1)
	s.reader.SetMaxOpenConns(readers)
	s.reader.SetMaxIdleConns(readers)
	if err := migrate(context.Background(), s.writer, sqlite); err != nil {
		return nil, errors.Join(fmt.Errorf("open registry %s: %w", path, err), s.Close())
	}
	if err := s.prepareIssuing(context.Background()); err != nil {
		return nil, errors.Join(fmt.Errorf("open registry %s: %w", path, err), s.Close())
	}
	return s, nil
}

// sqliteDSN: a commit is on disk when it returns (synchronous FULL also under
// WAL), and a transaction takes the write lock when it begins, since one that
// asks for it later can fail for good (SQLITE_BUSY_SNAPSHOT).
func sqliteDSN(path string, readOnly bool) string {
	q := url.Values{"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"}}
	if readOnly {
		q.Add("_pragma", "query_only(1)")
	} else {
		q.Set("_txlock", "immediate")
	}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
}
