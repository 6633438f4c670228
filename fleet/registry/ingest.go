package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/gatewarden/gatewarden/internal/wire"
)

// MaxStreams is how many streams of one device are remembered; the ones that
// were silent longest are forgotten. A device starts one when its outbox was lost.
const MaxStreams = 64

const maxStreamName = 64 // bytes

// Accept takes in one message, exactly once: it is stored with its effects iff
// Prev <= last < Seq, where last is the highest Seq taken in from its stream.
// upTo is last afterwards.
func (s *Store) Accept(ctx context.Context, m Message) (accepted bool, upTo uint64, err error) {
	as, err := s.AcceptAll(ctx, []Message{m})
	if err != nil {
		return false, 0, err
	}
	return as[0].Accepted, as[0].UpTo, as[0].Err
}

// AcceptAll is Accept for many messages in one transaction, in order. The error
// is about the database: nothing was taken in, the call may be repeated.
func (s *Store) AcceptAll(ctx context.Context, ms []Message) ([]Acceptance, error) {
	out := make([]Acceptance, len(ms))
	seen := make(map[string]time.Time) // by device
	err := s.write(ctx, func(tx *sql.Tx) (err error) {
		for i, m := range ms {
			if out[i], err = accept(ctx, tx, m); err != nil {
				return err
			}
			if out[i].Err == nil && m.Received.After(seen[m.Device]) {
				seen[m.Device] = m.Received
			}
		}
		return touchAll(ctx, tx, seen)
	})
	if err != nil {
		return nil, fmt.Errorf("accept messages: %w", err)
	}
	for device := range seen {
		s.changed(device)
	}
	return out, nil
}

func accept(ctx context.Context, tx *sql.Tx, m Message) (Acceptance, error) {
	if err := acceptable(m); err != nil {
		return Acceptance{Err: err}, nil
	}
	if err := openStream(ctx, tx, m); errors.Is(err, ErrNotFound) {
		return Acceptance{Err: err}, nil
	} else if err != nil {
		return Acceptance{}, err
	}
	n, err := exec(ctx, tx, `UPDATE streams SET last_seq = $3, received = $5 WHERE device = $1 AND stream = $2 AND last_seq >= $4 AND last_seq < $3`,
		m.Device, m.Stream, int64(m.Seq), int64(m.Prev), ms(m.Received))
	if err != nil {
		return Acceptance{}, err
	}
	if n == 0 {
		var last int64
		err := tx.QueryRowContext(ctx, `SELECT last_seq FROM streams WHERE device = $1 AND stream = $2`, m.Device, m.Stream).Scan(&last)
		return Acceptance{UpTo: uint64(last)}, err
	}
	return Acceptance{Accepted: true, UpTo: m.Seq}, storeMessage(ctx, tx, m)
}

func acceptable(m Message) error {
	switch {
	case m.Seq > math.MaxInt64 || m.Prev >= m.Seq:
		return fmt.Errorf("message %d after %d: not a sequence", m.Seq, m.Prev)
	case m.Stream == "" || len(m.Stream) > maxStreamName || clean(m.Stream, maxStreamName) != m.Stream:
		return errors.New("message without a proper stream name")
	case len(m.Body) == 0:
		return errors.New("message without a body")
	case len(m.Body) > wire.MaxMessage:
		return fmt.Errorf("message of %d bytes, at most %d", len(m.Body), wire.MaxMessage)
	}
	return nil
}

// openStream makes sure that the stream has a row. ErrNotFound: no such device.
func openStream(ctx context.Context, tx *sql.Tx, m Message) error {
	n, err := exec(ctx, tx, `INSERT INTO streams (device, stream, last_seq, received)
		SELECT id, $2, 0, $3 FROM devices WHERE id = $1 ON CONFLICT (device, stream) DO NOTHING`, m.Device, m.Stream, ms(m.Received))
	if err != nil {
		return err
	}
	if n == 0 {
		_, err := one(ctx, tx, scanString, `SELECT device FROM streams WHERE device = $1 AND stream = $2`, m.Device, m.Stream)
		return err
	}
	_, err = exec(ctx, tx, `DELETE FROM streams WHERE device = $1 AND stream <> $2 AND stream NOT IN
		(SELECT stream FROM streams WHERE device = $1 AND stream <> $2 ORDER BY received DESC, stream LIMIT $3)`, m.Device, m.Stream, MaxStreams-1)
	return err
}

func storeMessage(ctx context.Context, tx *sql.Tx, m Message) error {
	_, err := exec(ctx, tx, `INSERT INTO messages (device, stream, seq, prev, kind, sent, received, body) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		m.Device, m.Stream, int64(m.Seq), int64(m.Prev), m.Kind, ms(m.Time), ms(m.Received), []byte(m.Body))
	if err != nil {
		return err
	}
	for _, e := range m.Timeline {
		e.Device = m.Device
		if err := addEvent(ctx, tx, e); err != nil {
			return err
		}
	}
	if m.Update != nil {
		if err := putUpdate(ctx, tx, m.Device, *m.Update, m.Received); err != nil {
			return err
		}
	}
	if m.Receipt == nil {
		return nil
	}
	receipt := *m.Receipt
	receipt.Device = m.Device
	return putReceipt(ctx, tx, receipt)
}

func touchAll(ctx context.Context, tx *sql.Tx, seen map[string]time.Time) error {
	for device, at := range seen {
		if _, err := exec(ctx, tx, `UPDATE devices SET last_seen = $2 WHERE id = $1 AND last_seen < $2`, device, ms(at)); err != nil {
			return err
		}
	}
	return nil
}
