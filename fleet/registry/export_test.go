package registry

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
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

// MigrateTo brings the database at path to the schema of an earlier release.
func MigrateTo(ctx context.Context, path string, version int) error {
	db, err := sql.Open("sqlite", sqliteDSN(path, false))
	if err != nil {
		return err
	}
	defer db.Close()
	names := strings.NewReplacer("{TEXT}", sqlite.text, "{BLOB}", sqlite.blob, "{ID}", sqlite.id)
	statements := []string{`CREATE TABLE schema_version (version BIGINT NOT NULL)`, fmt.Sprintf(`INSERT INTO schema_version (version) VALUES (%d)`, version)}
	for _, step := range migrations()[:version] {
		statements = append(statements, step...)
	}
	for _, statement := range statements {
		if _, err := db.ExecContext(ctx, names.Replace(statement)); err != nil {
			return err
		}
	}
	_, err = db.ExecContext(ctx, `INSERT INTO devices (id, model, hostname, hostname_key, software, state, ek_name, ek_verified, grade, grade_at, created,
		approved_at, approved_by, last_seen, cert_serial, cert_profile, cert_not_before, cert_not_after)
		VALUES ('gw-aaaaaaaaaaaaaaaa', 'box', '', '', '1.0', 'active', x'01', 0, '', 0, 1, 1, 'alice', 0, '', '', 0, 0)`)
	if err == nil {
		_, err = db.ExecContext(ctx, `INSERT INTO tickets (id, device, secret_hash, csr_hash, key_hash, ak_public, expires)
			VALUES ('t', 'gw-aaaaaaaaaaaaaaaa', zeroblob(32), zeroblob(32), 'k', x'02', 2000000)`)
	}
	return err
}

// Room leaves the database so many pages to grow by, as a full disk does; -1 takes
// the bound away.
func (s *Store) Room(ctx context.Context, pages int) error {
	most := 1 << 30
	if pages >= 0 {
		var now int
		if err := s.writer.QueryRowContext(ctx, `PRAGMA page_count`).Scan(&now); err != nil {
			return err
		}
		most = now + pages
	}
	_, err := s.writer.ExecContext(ctx, fmt.Sprintf(`PRAGMA max_page_count = %d`, most))
	return err
}
