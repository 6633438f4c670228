package registry

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Store is the registry. Safe for concurrent use, by many processes too.
type Store struct {
	writer *sql.DB
	reader *sql.DB
	watch  watch
	batch  batch

	issuing issuing
}

// dialect is all that differs between databases.
type dialect struct {
	text string // a text column that sorts by bytes
	blob string
	id   string // a primary key that the database counts up
}

// Close ends all connections. Subscriptions stay silent from then on.
func (s *Store) Close() error {
	return errors.Join(s.reader.Close(), s.writer.Close())
}

// write runs f in a transaction. What f did is durable when write returns nil.
func (s *Store) write(ctx context.Context, f func(tx *sql.Tx) error) error {
	tx, err := s.writer.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	if err := f(tx); err != nil {
		return errors.Join(err, rollback(tx))
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit transaction: %w", err)
	}
	return nil
}

func rollback(tx *sql.Tx) error {
	if err := tx.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
		return fmt.Errorf("roll back transaction: %w", err)
	}
	return nil
}

type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// exec returns how many rows the statement touched.
func exec(ctx context.Context, db execer, query string, args ...any) (int64, error) {
	res, err := db.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// execOne is exec for a statement that must touch a row: ErrNotFound if it did not.
func execOne(ctx context.Context, db execer, query string, args ...any) error {
	n, err := exec(ctx, db, query, args...)
	if err == nil && n == 0 {
		return ErrNotFound
	}
	return err
}

type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// row is one result: *sql.Rows or *sql.Row.
type row interface{ Scan(dest ...any) error }

func list[T any](ctx context.Context, db queryer, scan func(row) (T, error), query string, args ...any) ([]T, error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

// one is list for exactly one row: ErrNotFound if there is none.
func one[T any](ctx context.Context, db queryer, scan func(row) (T, error), query string, args ...any) (T, error) {
	all, err := list(ctx, db, scan, query, args...)
	if err != nil || len(all) == 0 {
		var none T
		if err == nil {
			err = ErrNotFound
		}
		return none, err
	}
	return all[0], nil
}

func scanString(r row) (s string, err error) { return s, r.Scan(&s) }

func scanBytes(r row) (b []byte, err error) { return b, r.Scan(&b) }

// when scans a column of milliseconds.
type when struct{ t *time.Time }

// Scan implements sql.Scanner.
func (w when) Scan(v any) error {
	n, ok := v.(int64)
	if !ok {
		return fmt.Errorf("time is a %T, not milliseconds", v)
	}
	*w.t = time.Time{}
	if n != 0 {
		*w.t = time.UnixMilli(n).UTC()
	}
	return nil
}

// ms is the column value of t.
func ms(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

func page(limit int) int {
	switch {
	case limit <= 0:
		return 50
	case limit > MaxPage:
		return MaxPage
	}
	return limit
}

// clean makes text from outside fit a column: valid UTF-8, no NUL (PostgreSQL
// takes neither), at most limit bytes.
func clean(s string, limit int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

func hashHex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
