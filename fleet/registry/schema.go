package registry

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
)

// migrations bring an empty database to the current schema. An entry is never
// changed once released; the schema's version is their number. {TEXT}, {BLOB}
// and {ID} are the dialect's.
func migrations() [][]string {
	return [][]string{schema1(), updateTables(), proofTables(), firmwareTables(), admissionTables(), fallTables(), softwareTables(), machineTables(), machineTickets()}
}

func migrate(ctx context.Context, db *sql.DB, d dialect) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	if err := migrateTx(ctx, tx, d); err != nil {
		_ = rollback(tx)
		return fmt.Errorf("migrate schema: %w", err)
	}
	return tx.Commit()
}

func migrateTx(ctx context.Context, tx *sql.Tx, d dialect) error {
	if _, err := tx.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)`); err != nil {
		return err
	}
	var version int
	if err := tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(version), 0) FROM schema_version`).Scan(&version); err != nil {
		return err
	}
	steps := migrations()
	if version > len(steps) {
		return fmt.Errorf("schema %d, this release knows up to %d: %w", version, len(steps), ErrTooNew)
	}
	names := strings.NewReplacer("{TEXT}", d.text, "{BLOB}", d.blob, "{ID}", d.id)
	for i := version; i < len(steps); i++ {
		for _, statement := range steps[i] {
			if _, err := tx.ExecContext(ctx, names.Replace(statement)); err != nil {
				return fmt.Errorf("step %d: %w", i+1, err)
			}
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO schema_version (version) VALUES ($1)`, i+1); err != nil {
			return err
		}
	}
	return nil
}

func schema1() []string { return append(identityTables(), recordTables()...) }

func identityTables() []string {
	return []string{
		`CREATE TABLE devices (
			id {TEXT} PRIMARY KEY, model {TEXT} NOT NULL, hostname {TEXT} NOT NULL, hostname_key {TEXT} NOT NULL,
			software {TEXT} NOT NULL, state {TEXT} NOT NULL,
			ek_name {BLOB} NOT NULL, ek_public {BLOB}, ek_certificate {BLOB}, ak_public {BLOB}, ek_verified INTEGER NOT NULL,
			grade {TEXT} NOT NULL, grade_at BIGINT NOT NULL, created BIGINT NOT NULL,
			approved_at BIGINT NOT NULL, approved_by {TEXT} NOT NULL, last_seen BIGINT NOT NULL,
			cert_serial {TEXT} NOT NULL, cert_profile {TEXT} NOT NULL, cert_not_before BIGINT NOT NULL, cert_not_after BIGINT NOT NULL)`,
		`CREATE INDEX devices_state ON devices (state, id)`,
		`CREATE INDEX devices_state_grade ON devices (state, grade, id)`,
		`CREATE INDEX devices_grade ON devices (grade, id)`,
		`CREATE INDEX devices_model ON devices (model, id)`,
		`CREATE INDEX devices_hostname ON devices (hostname_key)`,
		`CREATE TABLE tickets (
			id {TEXT} PRIMARY KEY, device {TEXT} NOT NULL REFERENCES devices (id),
			secret_hash {BLOB} NOT NULL, csr_hash {BLOB} NOT NULL, key_hash {TEXT} NOT NULL, ak_public {BLOB} NOT NULL, expires BIGINT NOT NULL)`,
		`CREATE INDEX tickets_device ON tickets (device, expires)`,
		`CREATE TABLE nonces (
			nonce_hash {TEXT} PRIMARY KEY, device {TEXT} NOT NULL REFERENCES devices (id), expires BIGINT NOT NULL)`,
		`CREATE INDEX nonces_device ON nonces (device, expires)`,
		`CREATE TABLE certificates (
			serial {TEXT} PRIMARY KEY, device {TEXT} NOT NULL, identity {TEXT} NOT NULL, profile {TEXT} NOT NULL, spki {TEXT} NOT NULL,
			not_before BIGINT NOT NULL, not_after BIGINT NOT NULL, issued_at BIGINT NOT NULL,
			revoked_at BIGINT NOT NULL, reason {TEXT} NOT NULL, der {BLOB} NOT NULL)`,
		`CREATE INDEX certificates_device ON certificates (device, issued_at)`,
		`CREATE INDEX certificates_revoked ON certificates (not_after) WHERE revoked_at > 0`,
	}
}

func recordTables() []string {
	return []string{
		`CREATE TABLE verdicts (
			id {ID}, device {TEXT} NOT NULL REFERENCES devices (id), at BIGINT NOT NULL, grade {TEXT} NOT NULL, gate {TEXT} NOT NULL,
			explanation {BLOB} NOT NULL, rules {BLOB}, facts {BLOB})`,
		`CREATE INDEX verdicts_device ON verdicts (device, id)`,
		`CREATE TABLE memories (device {TEXT} PRIMARY KEY REFERENCES devices (id), body {BLOB} NOT NULL)`,
		`CREATE TABLE logs (digest {TEXT} PRIMARY KEY, data {BLOB} NOT NULL, put_at BIGINT NOT NULL)`,
		`CREATE INDEX logs_put ON logs (put_at)`,
		`CREATE TABLE firmware (
			id {ID}, model {TEXT} NOT NULL, hash {TEXT} NOT NULL, name {TEXT} NOT NULL, body {BLOB} NOT NULL,
			added_by {TEXT} NOT NULL, at BIGINT NOT NULL, UNIQUE (model, hash))`,
		`CREATE TABLE streams (
			device {TEXT} NOT NULL REFERENCES devices (id), stream {TEXT} NOT NULL, last_seq BIGINT NOT NULL, received BIGINT NOT NULL,
			PRIMARY KEY (device, stream))`,
		`CREATE TABLE messages (
			id {ID}, device {TEXT} NOT NULL REFERENCES devices (id), stream {TEXT} NOT NULL, seq BIGINT NOT NULL, prev BIGINT NOT NULL,
			kind {TEXT} NOT NULL, sent BIGINT NOT NULL, received BIGINT NOT NULL, body {BLOB} NOT NULL)`,
		`CREATE INDEX messages_device ON messages (device, kind, id)`,
		`CREATE TABLE events (
			id {ID}, device {TEXT} NOT NULL, at BIGINT NOT NULL, kind {TEXT} NOT NULL, severity {TEXT} NOT NULL, body {TEXT} NOT NULL)`,
		`CREATE INDEX events_device ON events (device, id)`,
		`CREATE TABLE commands (
			id {ID}, hash {TEXT} NOT NULL, device {TEXT} NOT NULL, command_id {TEXT} NOT NULL, envelope {BLOB} NOT NULL,
			verb {TEXT} NOT NULL, reason {TEXT} NOT NULL, signers {BLOB} NOT NULL, created BIGINT NOT NULL, expires BIGINT NOT NULL,
			pending INTEGER NOT NULL, UNIQUE (device, hash))`,
		`CREATE INDEX commands_pending ON commands (device, id) WHERE pending = 1`,
		`CREATE INDEX commands_device ON commands (device, id)`,
		`CREATE TABLE receipts (
			id {ID}, device {TEXT} NOT NULL, envelope {TEXT} NOT NULL, hash {TEXT} NOT NULL, outcome {TEXT} NOT NULL, rule {TEXT} NOT NULL,
			body {TEXT} NOT NULL, received BIGINT NOT NULL, receipt {BLOB} NOT NULL, UNIQUE (device, envelope, hash))`,
		`CREATE TABLE audit (
			id {ID}, at BIGINT NOT NULL, who {TEXT} NOT NULL, action {TEXT} NOT NULL, device {TEXT} NOT NULL, body {TEXT} NOT NULL)`,
	}
}

// updateTables: of a device's updates to one release, that is latest of which it spoke last.
func updateTables() []string {
	return []string{
		`ALTER TABLE devices ADD COLUMN running {TEXT} NOT NULL DEFAULT ''`,
		`ALTER TABLE devices ADD COLUMN update_to {TEXT} NOT NULL DEFAULT ''`,
		`ALTER TABLE devices ADD COLUMN update_outcome {TEXT} NOT NULL DEFAULT ''`,
		`CREATE INDEX devices_running ON devices (running, state)`,
		`CREATE TABLE updates (
			id {ID}, device {TEXT} NOT NULL REFERENCES devices (id), update_id {TEXT} NOT NULL, name {TEXT} NOT NULL, latest INTEGER NOT NULL,
			state {TEXT} NOT NULL, outcome {TEXT} NOT NULL, rule {TEXT} NOT NULL, body {TEXT} NOT NULL,
			product {TEXT} NOT NULL, channel {TEXT} NOT NULL, version {TEXT} NOT NULL, from_version {TEXT} NOT NULL, epoch BIGINT NOT NULL,
			pending INTEGER NOT NULL, chunks BIGINT NOT NULL, fetched BIGINT NOT NULL, attempts BIGINT NOT NULL,
			began BIGINT NOT NULL, ended BIGINT NOT NULL, first_at BIGINT NOT NULL, last_at BIGINT NOT NULL, UNIQUE (device, update_id))`,
		`CREATE INDEX updates_device ON updates (device, id)`,
		`CREATE INDEX updates_name ON updates (name, outcome) WHERE latest = 1`,
	}
}

// admissionTables: device is who used a token or an entry up, "" while nobody did.
func admissionTables() []string {
	return []string{
		`CREATE TABLE tokens (
			id {TEXT} PRIMARY KEY, secret_hash {BLOB} NOT NULL, note {TEXT} NOT NULL, created_by {TEXT} NOT NULL,
			created BIGINT NOT NULL, expires BIGINT NOT NULL, accept_ek INTEGER NOT NULL, accept_firmware INTEGER NOT NULL,
			revoked_at BIGINT NOT NULL, device {TEXT} NOT NULL, used_at BIGINT NOT NULL)`,
		`CREATE TABLE allowed (
			kind {TEXT} NOT NULL, value {TEXT} NOT NULL, note {TEXT} NOT NULL, created_by {TEXT} NOT NULL, created BIGINT NOT NULL,
			accept_firmware INTEGER NOT NULL, device {TEXT} NOT NULL, used_at BIGINT NOT NULL, PRIMARY KEY (kind, value))`,
		`ALTER TABLE tickets ADD COLUMN token {TEXT} NOT NULL DEFAULT ''`,
	}
}

// softwareTables: gateways without a TPM, and the tokens that let them in.
func softwareTables() []string {
	return []string{
		`ALTER TABLE devices ADD COLUMN software_keys INTEGER NOT NULL DEFAULT 0`,
		`ALTER TABLE tokens ADD COLUMN accept_software INTEGER NOT NULL DEFAULT 0`,
		`CREATE INDEX devices_software ON devices (id) WHERE software_keys = 1`,
	}
}
