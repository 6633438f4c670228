package registry

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const commandColumns = `hash, command_id, device, envelope, verb, reason, signers, created, expires, pending`

func scanCommand(r row) (c CommandRecord, err error) {
	var signers []byte
	err = r.Scan(&c.Hash, &c.ID, &c.Device, &c.Envelope, &c.Verb, &c.Reason, &signers, when{&c.Created}, when{&c.Expires}, &c.Pending)
	if err != nil {
		return CommandRecord{}, err
	}
	return c, json.Unmarshal(signers, &c.Signers)
}

// CommandHash is the key of an envelope's records: SHA-256 (hex) of the command
// bytes, as wire.ReceiptBody.Envelope names it.
func CommandHash(command []byte) string { return hashHex(command) }

// AddCommand queues an envelope for one device. The same command bytes again
// (a delivery that shall be repeated, other signatures) replace the envelope and
// make it Pending again; what was answered to it stays.
func (s *Store) AddCommand(ctx context.Context, c CommandRecord) error {
	if c.Hash == "" {
		var env wire.Envelope
		if err := strictjson.Unmarshal(c.Envelope, &env); err != nil {
			return fmt.Errorf("add command: decode envelope: %w", err)
		}
		c.Hash = CommandHash(env.Command)
	}
	signers, err := json.Marshal(c.Signers)
	if err != nil {
		return fmt.Errorf("add command: %w", err)
	}
	err = s.write(ctx, func(tx *sql.Tx) error {
		_, err := exec(ctx, tx, `INSERT INTO commands (`+commandColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 1)
			ON CONFLICT (device, hash) DO UPDATE SET envelope = excluded.envelope, signers = excluded.signers, pending = 1`,
			c.Hash, clean(c.ID, maxClaim), c.Device, c.Envelope, clean(c.Verb, maxClaim), clean(c.Reason, maxText), signers, ms(c.Created), ms(c.Expires))
		return err
	})
	if err != nil {
		return fmt.Errorf("add command %s: %w", c.Hash, err)
	}
	s.changed(c.Device)
	return nil
}

// PendingCommands returns those of device without a receipt since they were
// added last, and not expired; oldest first, without Receipts.
func (s *Store) PendingCommands(ctx context.Context, device string, now time.Time) ([]CommandRecord, error) {
	cs, err := list(ctx, s.reader, scanCommand, `SELECT `+commandColumns+` FROM commands
		WHERE device = $1 AND pending = 1 AND (expires = 0 OR expires > $2) ORDER BY id LIMIT $3`, device, ms(now), MaxPage)
	if err != nil {
		return nil, fmt.Errorf("list pending commands of device %s: %w", device, err)
	}
	return cs, nil
}

// DevicesWithCommands lists the devices that have PendingCommands.
func (s *Store) DevicesWithCommands(ctx context.Context, now time.Time) ([]string, error) {
	ids, err := list(ctx, s.reader, func(r row) (id string, err error) { return id, r.Scan(&id) }, `SELECT DISTINCT device FROM commands
		WHERE pending = 1 AND (expires = 0 OR expires > $1) ORDER BY device`, ms(now))
	if err != nil {
		return nil, fmt.Errorf("list devices with pending commands: %w", err)
	}
	return ids, nil
}

// PutReceipt stores a receipt once and ends the command's Pending. A receipt for
// an unknown command is stored too: it may concern one that went another way.
func (s *Store) PutReceipt(ctx context.Context, r ReceiptRecord) error {
	if err := s.write(ctx, func(tx *sql.Tx) error { return putReceipt(ctx, tx, r) }); err != nil {
		return fmt.Errorf("put receipt of device %s: %w", r.Device, err)
	}
	s.changed(r.Device)
	return nil
}

func putReceipt(ctx context.Context, tx *sql.Tx, r ReceiptRecord) error {
	n, err := exec(ctx, tx, `INSERT INTO receipts (device, envelope, hash, outcome, rule, body, received, receipt) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (device, envelope, hash) DO NOTHING`, r.Device, r.Envelope, hashHex(r.Receipt), clean(r.Outcome, maxClaim),
		clean(r.Rule, maxClaim), clean(r.Text, maxText), ms(r.Received), []byte(r.Receipt))
	if err != nil || n == 0 { // a repeated receipt must not end a repeated delivery
		return err
	}
	_, err = exec(ctx, tx, `UPDATE commands SET pending = 0 WHERE device = $1 AND hash = $2`, r.Device, r.Envelope)
	return err
}

// Commands returns a device's, newest first, with their receipts.
func (s *Store) Commands(ctx context.Context, device string, limit int) ([]CommandRecord, error) {
	cs, err := list(ctx, s.reader, scanCommand, `SELECT `+commandColumns+` FROM commands
		WHERE device = $1 ORDER BY id DESC LIMIT $2`, device, page(limit))
	if err != nil {
		return nil, fmt.Errorf("list commands of device %s: %w", device, err)
	}
	receipts, err := list(ctx, s.reader, scanReceipt, `SELECT device, envelope, outcome, rule, body, received, receipt FROM receipts
		WHERE device = $1 AND envelope IN (SELECT hash FROM (SELECT hash FROM commands WHERE device = $1 ORDER BY id DESC LIMIT $2) AS shown)
		ORDER BY id`, device, page(limit))
	if err != nil {
		return nil, fmt.Errorf("list receipts of device %s: %w", device, err)
	}
	at := make(map[string]int, len(cs))
	for i, c := range cs {
		at[c.Hash] = i
	}
	for _, r := range receipts {
		if i, ok := at[r.Envelope]; ok {
			cs[i].Receipts = append(cs[i].Receipts, r)
		}
	}
	return cs, nil
}

func scanReceipt(r row) (rec ReceiptRecord, err error) {
	var receipt []byte
	err = r.Scan(&rec.Device, &rec.Envelope, &rec.Outcome, &rec.Rule, &rec.Text, when{&rec.Received}, &receipt)
	rec.Receipt = receipt
	return rec, err
}
