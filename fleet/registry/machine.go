package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

func machineTables() []string {
	return []string{
		`ALTER TABLE devices ADD COLUMN machine {TEXT} NOT NULL DEFAULT ''`,
		`CREATE UNIQUE INDEX devices_machine ON devices (machine) WHERE machine <> ''`,
	}
}

func machineTickets() []string {
	return []string{`ALTER TABLE tickets ADD COLUMN machine {TEXT} NOT NULL DEFAULT ''`}
}

// OfMachine returns the id of the device that a machine's maker vouched for, "" if
// there is none: a machine vouches for one device.
func (s *Store) OfMachine(ctx context.Context, machine string) (id string, err error) {
	err = s.reader.QueryRowContext(ctx, `SELECT id FROM devices WHERE machine = $1`, machine).Scan(&id)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("find device of a machine: %w", err)
	}
	return id, nil
}
