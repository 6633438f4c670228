package registry

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/gatewarden/gatewarden/internal/wire"
)

// MaxLogs is how many event logs are kept for all devices together; at most
// wire.MaxEventLog bytes each.
const MaxLogs = 4096

// PutLog keeps a log under its digest, SHA-256 (hex), so that it travels once.
// The ones that were put longest ago make room.
func (s *Store) PutLog(ctx context.Context, digest string, data []byte, now time.Time) error {
	if digest != hashHex(data) {
		return fmt.Errorf("put log %s: its SHA-256 is %s", digest, hashHex(data))
	}
	if len(data) > wire.MaxEventLog {
		return fmt.Errorf("put log %s: %d bytes, at most %d", digest, len(data), wire.MaxEventLog)
	}
	err := s.write(ctx, func(tx *sql.Tx) error {
		_, err := exec(ctx, tx, `INSERT INTO logs (digest, data, put_at) VALUES ($1, $2, $3)
			ON CONFLICT (digest) DO UPDATE SET put_at = excluded.put_at`, digest, data, ms(now))
		if err != nil {
			return err
		}
		_, err = exec(ctx, tx, `DELETE FROM logs WHERE put_at < (SELECT put_at FROM logs ORDER BY put_at DESC LIMIT 1 OFFSET $1)`, MaxLogs-1)
		return err
	})
	if err != nil {
		return fmt.Errorf("put log %s: %w", digest, err)
	}
	return nil
}

// Log returns a log by its digest; ErrNotFound if it is not, or no longer, held.
func (s *Store) Log(ctx context.Context, digest string) ([]byte, error) {
	data, err := one(ctx, s.reader, scanBytes, `SELECT data FROM logs WHERE digest = $1`, digest)
	if err != nil {
		return nil, fmt.Errorf("read log %s: %w", digest, err)
	}
	return data, nil
}
