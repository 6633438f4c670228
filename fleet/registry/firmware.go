package registry

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Measured is the firmware that a verdict found: from verified events.
type Measured struct {
	Hash     string          // attest.FirmwareSet.Hash
	Body     json.RawMessage // an attest.FirmwareSet
	Approved bool
	Text     string // how it differs from what is approved
}

// Proposal is firmware of a hardware model that gateways show and nobody approved.
type Proposal struct {
	Model, Hash string
	Body        json.RawMessage // an attest.FirmwareSet without a name
	Text        string          // how it differed from what was approved when it was first seen
	Devices     int             // gateways in service whose EK certificate was verified, and that showed it last
	Of          int             // such gateways of the model altogether
	Others      int             // gateways that showed it, and whose EK nobody vouches for
	First       time.Time
	FirstDevice string
}

// firmwareTables keep how many gateways of a model show which firmware, so that
// no page counts them. devices.firmware is the set in which a gateway counts.
func firmwareTables() []string {
	return []string{
		`CREATE TABLE firmware_seen (
			model {TEXT} NOT NULL, hash {TEXT} NOT NULL, body {BLOB} NOT NULL, said {TEXT} NOT NULL, approved INTEGER NOT NULL,
			devices BIGINT NOT NULL, others BIGINT NOT NULL, first_at BIGINT NOT NULL, first_device {TEXT} NOT NULL, PRIMARY KEY (model, hash))`,
		`CREATE INDEX firmware_proposed ON firmware_seen (devices, others) WHERE approved = 0`,
		`ALTER TABLE devices ADD COLUMN firmware {TEXT} NOT NULL DEFAULT ''`,
	}
}

// shower is what counting needs of a device.
type shower struct {
	model, firmware, state string
	certified              bool
}

func readShower(ctx context.Context, tx *sql.Tx, device string) (shower, error) {
	return one(ctx, tx, func(r row) (s shower, err error) { return s, r.Scan(&s.model, &s.firmware, &s.state, &s.certified) },
		`SELECT model, firmware, state, ek_verified FROM devices WHERE id = $1`, device)
}

// addMeasured counts a device among those that show m. Only approved devices
// count: else whoever can enrol could propose.
func addMeasured(ctx context.Context, tx *sql.Tx, device string, m Measured, now time.Time) error {
	s, err := readShower(ctx, tx, device)
	if err != nil || s.state != Active && s.state != Quarantined {
		return err
	}
	if s.firmware == m.Hash {
		_, err := exec(ctx, tx, `UPDATE firmware_seen SET approved = $3 WHERE model = $1 AND hash = $2 AND approved <> $3`, s.model, m.Hash, flag(m.Approved))
		return err
	}
	if err := uncount(ctx, tx, device, s); err != nil {
		return err
	}
	first, err := exec(ctx, tx, `INSERT INTO firmware_seen (model, hash, body, said, approved, devices, others, first_at, first_device)
		VALUES ($1, $2, $3, $4, $5, 0, 0, $6, $7) ON CONFLICT (model, hash) DO NOTHING`,
		s.model, m.Hash, []byte(m.Body), clean(m.Text, maxText), flag(m.Approved), ms(now), device)
	if err != nil {
		return err
	}
	if _, err := exec(ctx, tx, `UPDATE firmware_seen SET devices = devices + $3, others = others + $4, approved = $5 WHERE model = $1 AND hash = $2`,
		s.model, m.Hash, flag(s.certified), flag(!s.certified), flag(m.Approved)); err != nil {
		return err
	}
	if _, err := exec(ctx, tx, `UPDATE devices SET firmware = $2 WHERE id = $1`, device, m.Hash); err != nil {
		return err
	}
	if first == 0 || m.Approved {
		return nil
	}
	return addEvent(ctx, tx, Event{Device: device, At: now, Kind: "firmware.new", Severity: Warning,
		Text: fmt.Sprintf("firmware that nobody approved was first seen on a gateway of the model %s: set %.16s", s.model, m.Hash)})
}

// uncount takes a device out of the counts.
func uncount(ctx context.Context, tx *sql.Tx, device string, s shower) error {
	if s.firmware == "" {
		return nil
	}
	if _, err := exec(ctx, tx, `UPDATE firmware_seen SET devices = devices - $3, others = others - $4 WHERE model = $1 AND hash = $2`,
		s.model, s.firmware, flag(s.certified), flag(!s.certified)); err != nil {
		return err
	}
	if _, err := exec(ctx, tx, `DELETE FROM firmware_seen WHERE model = $1 AND hash = $2 AND devices + others <= 0`, s.model, s.firmware); err != nil {
		return err
	}
	_, err := exec(ctx, tx, `UPDATE devices SET firmware = '' WHERE id = $1`, device)
	return err
}

// leaveService takes a device that is out of service out of the counts.
func leaveService(ctx context.Context, tx *sql.Tx, device, state string) error {
	if state == Active || state == Quarantined {
		return nil
	}
	s, err := readShower(ctx, tx, device)
	if err != nil {
		return err
	}
	return uncount(ctx, tx, device, s)
}

const proposalQuery = `SELECT model, hash, body, said, devices, others, first_at, first_device,
	(SELECT SUM(devices) FROM firmware_seen AS every WHERE every.model = f.model) FROM firmware_seen AS f WHERE approved = 0`

func scanProposal(r row) (p Proposal, err error) {
	var body []byte
	err = r.Scan(&p.Model, &p.Hash, &body, &p.Text, &p.Devices, &p.Others, when{&p.First}, &p.FirstDevice, &p.Of)
	p.Body = body
	return p, err
}

// Proposals returns firmware that nobody approved, the most frequent first.
func (s *Store) Proposals(ctx context.Context, limit int) ([]Proposal, error) {
	ps, err := list(ctx, s.reader, scanProposal, proposalQuery+` ORDER BY devices DESC, others DESC LIMIT $1`, page(limit))
	if err != nil {
		return nil, fmt.Errorf("list firmware proposals: %w", err)
	}
	return ps, nil
}

// Proposal returns one; ErrNotFound if no gateway shows it, or it was approved.
func (s *Store) Proposal(ctx context.Context, model, hash string) (Proposal, error) {
	p, err := one(ctx, s.reader, scanProposal, proposalQuery+` AND model = $1 AND hash = $2`, model, hash)
	if err != nil {
		return Proposal{}, fmt.Errorf("read firmware proposal: %w", err)
	}
	return p, nil
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

// AddFirmware approves a set for a model, and takes it off the proposals under its
// hash. The same bytes again change nothing.
func (s *Store) AddFirmware(ctx context.Context, model, name, hash string, set json.RawMessage, by string, now time.Time) error {
	if hash == "" {
		return errors.New("add firmware: its hash is missing")
	}
	err := s.write(ctx, func(tx *sql.Tx) error { return addFirmware(ctx, tx, FirmwareRecord{model, name, hash, set}, by, now) })
	if err != nil {
		return fmt.Errorf("add firmware of model %s: %w", model, err)
	}
	s.changed("")
	return nil
}

func addFirmware(ctx context.Context, tx *sql.Tx, f FirmwareRecord, by string, now time.Time) error {
	if _, err := exec(ctx, tx, `UPDATE firmware_seen SET approved = 1 WHERE model = $1 AND hash = $2`, f.Model, f.Hash); err != nil {
		return err
	}
	n, err := exec(ctx, tx, `INSERT INTO firmware (model, hash, name, body, added_by, at) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (model, hash) DO NOTHING`, f.Model, hashHex(f.Set), clean(f.Name, maxClaim), []byte(f.Set), clean(by, maxClaim), ms(now))
	if err != nil || n == 0 {
		return err
	}
	return addAudit(ctx, tx, AuditEntry{At: now, By: by, Action: "firmware.approve", Text: "model " + f.Model + ": " + f.Name})
}
