package registry

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/gatewarden/gatewarden/internal/wire"
)

// MaxMessages is the longest list that Messages returns.
const MaxMessages = 100_000

// Messages returns a device's of one kind, newest first, at most limit.
func (s *Store) Messages(ctx context.Context, device, kind string, limit int) ([]Message, error) {
	found, err := list(ctx, s.reader, scanMessage, `SELECT device, stream, seq, prev, kind, sent, received, body FROM messages
		WHERE device = $1 AND kind = $2 ORDER BY id DESC LIMIT $3`, device, kind, min(max(limit, 1), MaxMessages))
	if err != nil {
		return nil, fmt.Errorf("list messages of device %s: %w", device, err)
	}
	return found, nil
}

func scanMessage(r row) (m Message, err error) {
	var body []byte
	err = r.Scan(&m.Device, &m.Stream, &m.Seq, &m.Prev, &m.Kind, when{&m.Time}, when{&m.Received}, &body)
	m.Body = body
	return m, err
}

// CountMessages returns how many of one kind are stored.
func (s *Store) CountMessages(ctx context.Context, device, kind string) (int, error) {
	var n int
	err := s.reader.QueryRowContext(ctx, `SELECT COUNT(*) FROM messages WHERE device = $1 AND kind = $2`, device, kind).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count messages of device %s: %w", device, err)
	}
	return n, nil
}

// Health returns the newest health message; ErrNotFound before the first.
func (s *Store) Health(ctx context.Context, device string) (Message, error) {
	found, err := s.Messages(ctx, device, string(wire.KindHealth), 1)
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("read health of device %s: %w", device, ErrNotFound)
	}
	if err != nil {
		return Message{}, err
	}
	return found[0], nil
}

// Trim deletes what is not needed any more: expired nonces and tickets, and all
// but the newest keep messages of each device and kind, verdicts of each device
// and events of each device. Audit and certificates stay.
func (s *Store) Trim(ctx context.Context, keep int, now time.Time) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		for _, table := range []string{"nonces", "tickets"} {
			if _, err := exec(ctx, tx, `DELETE FROM `+table+` WHERE expires <= $1`, ms(now)); err != nil {
				return err
			}
		}
		for _, t := range []struct{ table, group string }{{"messages", "device, kind"}, {"verdicts", "device"}, {"events", "device"}} {
			if _, err := exec(ctx, tx, `DELETE FROM `+t.table+` WHERE id IN (SELECT id FROM
				(SELECT id, ROW_NUMBER() OVER (PARTITION BY `+t.group+` ORDER BY id DESC) AS place FROM `+t.table+`) AS placed WHERE place > $1)`, keep); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("trim registry: %w", err)
	}
	return nil
}
