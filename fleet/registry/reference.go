package registry

import (
	"context"
	"database/sql"
	"encoding/json"
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

// Firmware returns the firmware sets that were approved for a hardware model,
// oldest first, at most MaxPage.
func (s *Store) Firmware(ctx context.Context, model string) ([]json.RawMessage, error) {
	sets, err := list(ctx, s.reader, func(r row) (json.RawMessage, error) {
		b, err := scanBytes(r)
		return b, err
	}, `SELECT body FROM firmware WHERE model = $1 ORDER BY id LIMIT $2`, model, MaxPage)
	if err != nil {
		return nil, fmt.Errorf("list firmware of model %s: %w", model, err)
	}
	return sets, nil
}

// AddFirmware approves a set for a model. The same bytes again change nothing.
func (s *Store) AddFirmware(ctx context.Context, model, name string, set json.RawMessage, by string, now time.Time) error {
	err := s.write(ctx, func(tx *sql.Tx) error { return addFirmware(ctx, tx, FirmwareRecord{model, name, set}, by, now) })
	if err != nil {
		return fmt.Errorf("add firmware of model %s: %w", model, err)
	}
	s.changed("")
	return nil
}

func addFirmware(ctx context.Context, tx *sql.Tx, f FirmwareRecord, by string, now time.Time) error {
	n, err := exec(ctx, tx, `INSERT INTO firmware (model, hash, name, body, added_by, at) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (model, hash) DO NOTHING`, f.Model, hashHex(f.Set), clean(f.Name, maxClaim), []byte(f.Set), clean(by, maxClaim), ms(now))
	if err != nil || n == 0 {
		return err
	}
	return addAudit(ctx, tx, AuditEntry{At: now, By: by, Action: "firmware.approve", Text: "model " + f.Model + ": " + f.Name})
}
