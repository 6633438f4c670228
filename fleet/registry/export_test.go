package registry

import (
	"context"
	"database/sql"
	"fmt"
)

// Durability returns the writer's journal_mode and synchronous.
func (s *Store) Durability(ctx context.Context) (mode string, sync int) {
	_ = s.writer.QueryRowContext(ctx, `PRAGMA journal_mode`).Scan(&mode)
	_ = s.writer.QueryRowContext(ctx, `PRAGMA synchronous`).Scan(&sync)
	return mode, sync
}

// Fill enrols n devices in one transaction: 1 % pending, 1 % degraded, 1 % untrusted.
func (s *Store) Fill(ctx context.Context, n int) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		for i := range n {
			id := fmt.Sprintf("gw-%016d", i)
			d := Device{ID: id, Model: fmt.Sprint("m", i%7), Hostname: fmt.Sprint("host-", i), EKName: []byte(id)}
			if _, err := insertDevice(ctx, tx, d); err != nil {
				return err
			}
			state, grade := Active, "trusted"
			switch i % 100 {
			case 0:
				state, grade = Pending, ""
			case 1:
				grade = "degraded"
			case 2:
				state, grade = Quarantined, "untrusted"
			}
			if _, err := exec(ctx, tx, `UPDATE devices SET state = $2, grade = $3, running = $4 WHERE id = $1`, id, state, grade, fmt.Sprint("edge ", i%3)); err != nil {
				return err
			}
		}
		return nil
	})
}
