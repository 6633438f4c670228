package registry

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
)

// AddVerdict stores v, the device's grade and release, what v.Audit proves of its events
// and updates, that no update waits for a verdict any more, the firmware that it counts for, and, unless v.Memory is nil, its memory, in one transaction. The caller consumed the nonce before.
func (s *Store) AddVerdict(ctx context.Context, v Verdict) error {
	lines, err := json.Marshal(v.Explanation)
	if err != nil {
		return fmt.Errorf("encode explanation: %w", err)
	}
	err = s.write(ctx, func(tx *sql.Tx) error {
		if err := execOne(ctx, tx, `UPDATE devices SET fallen_at = CASE WHEN $2 = 'untrusted' AND grade <> $2 THEN $3 ELSE fallen_at END,
			grade = $2, grade_at = $3, running = $4, audit_head = $5 WHERE id = $1`,
			v.Device, v.Grade, ms(v.At), clean(v.Release, maxClaim), clean(v.Audit, maxClaim)); err != nil {
			return err
		}
		_, err := exec(ctx, tx, `INSERT INTO verdicts (device, at, grade, gate, explanation, rules, facts, claims) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			v.Device, ms(v.At), v.Grade, v.Gate, lines, []byte(v.Rules), []byte(v.Facts), []byte(v.Claims))
		if err != nil {
			return err
		}
		if err := settle(ctx, tx, v); err != nil {
			return err
		}
		if v.Firmware != nil {
			if err := addMeasured(ctx, tx, v.Device, *v.Firmware, v.At); err != nil {
				return err
			}
		}
		if err := prove(ctx, tx, v.Device, v.Audit, v.At); err != nil || v.Memory == nil {
			return err
		}
		return setMemory(ctx, tx, v.Device, v.Memory)
	})
	if err != nil {
		return fmt.Errorf("add verdict on device %s: %w", v.Device, err)
	}
	s.changed(v.Device)
	return nil
}

// Verdicts returns a device's, newest first.
func (s *Store) Verdicts(ctx context.Context, device string, limit int) ([]Verdict, error) {
	vs, err := list(ctx, s.reader, scanVerdict, `SELECT device, at, grade, gate, explanation, rules, facts, claims FROM verdicts
		WHERE device = $1 ORDER BY id DESC LIMIT $2`, device, page(limit))
	if err != nil {
		return nil, fmt.Errorf("list verdicts on device %s: %w", device, err)
	}
	return vs, nil
}

func scanVerdict(r row) (v Verdict, err error) {
	var lines, rules, facts, claims []byte
	if err := r.Scan(&v.Device, when{&v.At}, &v.Grade, &v.Gate, &lines, &rules, &facts, &claims); err != nil {
		return Verdict{}, err
	}
	v.Rules, v.Facts, v.Claims = rules, facts, claims
	return v, json.Unmarshal(lines, &v.Explanation)
}

// LastVerdict returns the newest; ErrNotFound before the first.
func (s *Store) LastVerdict(ctx context.Context, device string) (Verdict, error) {
	vs, err := s.Verdicts(ctx, device, 1)
	if err == nil && len(vs) == 0 {
		err = fmt.Errorf("read verdict on device %s: %w", device, ErrNotFound)
	}
	if err != nil {
		return Verdict{}, err
	}
	return vs[0], nil
}

// Memory returns what the verifier kept of the device, nil at first.
func (s *Store) Memory(ctx context.Context, device string) (json.RawMessage, error) {
	body, err := one(ctx, s.reader, scanBytes, `SELECT body FROM memories WHERE device = $1`, device)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("read memory of device %s: %w", device, err)
	}
	return body, nil
}

// SetMemory replaces it.
func (s *Store) SetMemory(ctx context.Context, device string, memory json.RawMessage) error {
	err := s.write(ctx, func(tx *sql.Tx) error { return setMemory(ctx, tx, device, memory) })
	if err != nil {
		return fmt.Errorf("set memory of device %s: %w", device, err)
	}
	return nil
}

func setMemory(ctx context.Context, tx *sql.Tx, device string, memory json.RawMessage) error {
	_, err := exec(ctx, tx, `INSERT INTO memories (device, body) VALUES ($1, $2)
		ON CONFLICT (device) DO UPDATE SET body = excluded.body`, device, []byte(memory))
	return err
}
