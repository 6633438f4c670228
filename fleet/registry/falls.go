package registry

import (
	"context"
	"fmt"
	"time"
)

// fallTables remember when a device lost its trust.
func fallTables() []string {
	return []string{
		`ALTER TABLE devices ADD COLUMN fallen_at BIGINT NOT NULL DEFAULT 0`,
		`CREATE INDEX devices_fallen ON devices (model, state, fallen_at)`,
	}
}

const (
	inService = ` FROM devices WHERE model = $1 AND state IN ('active', 'quarantined')`
	fallQuery = `SELECT (SELECT COUNT(*)` + inService + ` AND fallen_at > $2 AND fallen_at <= $3), (SELECT COUNT(*)` + inService + `)`
)

// Falls returns how many devices of a model that are in service became untrusted
// after since, but not after until (a clock that was ahead), and how many there are.
func (s *Store) Falls(ctx context.Context, model string, since, until time.Time) (fell, of int, err error) {
	if err := s.reader.QueryRowContext(ctx, fallQuery, model, ms(since), ms(until)).Scan(&fell, &of); err != nil {
		return 0, 0, fmt.Errorf("count falls of model %s: %w", model, err)
	}
	return fell, of, nil
}
