package registry

import (
	"context"
	"database/sql"
	"fmt"
	"math"
)

// AddEvent adds a line to the timeline.
func (s *Store) AddEvent(ctx context.Context, e Event) error {
	if err := s.write(ctx, func(tx *sql.Tx) error { return addEvent(ctx, tx, e) }); err != nil {
		return fmt.Errorf("add event: %w", err)
	}
	s.changed(e.Device)
	return nil
}

func addEvent(ctx context.Context, tx *sql.Tx, e Event) error {
	_, err := exec(ctx, tx, `INSERT INTO events (device, at, kind, severity, body, prev, head, proof) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		e.Device, ms(e.At), clean(e.Kind, maxClaim), e.Severity, clean(e.Text, maxText), clean(e.Prev, maxClaim), clean(e.Head, maxClaim), e.Proof)
	if err != nil || e.Head == "" {
		return err
	}
	return proveNew(ctx, tx, e)
}

// Events returns lines with an ID below before (0: from the newest on), newest
// first; device "" means of all devices and of the fleet.
func (s *Store) Events(ctx context.Context, device string, before int64, limit int) ([]Event, error) {
	query := `SELECT id, device, at, kind, severity, body, prev, head, proof FROM events WHERE id < $1 ORDER BY id DESC LIMIT $2`
	args := []any{from(before), page(limit)}
	if device != "" {
		query = `SELECT id, device, at, kind, severity, body, prev, head, proof FROM events WHERE device = $3 AND id < $1 ORDER BY id DESC LIMIT $2`
		args = append(args, device)
	}
	events, err := list(ctx, s.reader, func(r row) (e Event, err error) {
		return e, r.Scan(&e.ID, &e.Device, when{&e.At}, &e.Kind, &e.Severity, &e.Text, &e.Prev, &e.Head, &e.Proof)
	}, query, args...)
	if err != nil {
		return nil, fmt.Errorf("list events: %w", err)
	}
	return events, nil
}

// AddAudit records an act. Entries are never changed or deleted.
func (s *Store) AddAudit(ctx context.Context, a AuditEntry) error {
	if err := s.write(ctx, func(tx *sql.Tx) error { return addAudit(ctx, tx, a) }); err != nil {
		return fmt.Errorf("add audit entry: %w", err)
	}
	return nil
}

func addAudit(ctx context.Context, tx *sql.Tx, a AuditEntry) error {
	_, err := exec(ctx, tx, `INSERT INTO audit (at, who, action, device, body) VALUES ($1, $2, $3, $4, $5)`,
		ms(a.At), clean(a.By, maxClaim), clean(a.Action, maxClaim), a.Device, clean(a.Text, maxText))
	return err
}

// Audit returns entries with an ID below before (0: from the newest on), newest first.
func (s *Store) Audit(ctx context.Context, before int64, limit int) ([]AuditEntry, error) {
	entries, err := list(ctx, s.reader, func(r row) (a AuditEntry, err error) {
		return a, r.Scan(&a.ID, when{&a.At}, &a.By, &a.Action, &a.Device, &a.Text)
	}, `SELECT id, at, who, action, device, body FROM audit WHERE id < $1 ORDER BY id DESC LIMIT $2`, from(before), page(limit))
	if err != nil {
		return nil, fmt.Errorf("list audit: %w", err)
	}
	return entries, nil
}

func from(before int64) int64 {
	if before <= 0 {
		return math.MaxInt64
	}
	return before
}
