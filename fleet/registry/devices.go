package registry

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Limits on what a device claims, in bytes.
const (
	maxClaim = 255
	maxText  = 4096
)

const deviceColumns = `id, model, hostname, software, state, ek_name, ek_public, ek_certificate, ak_public, ek_verified, machine,
	grade, grade_at, created, approved_at, approved_by, last_seen, running, update_to, update_outcome, software_keys`

func scanDevice(r row) (d Device, err error) {
	err = r.Scan(&d.ID, &d.Model, &d.Hostname, &d.Software, &d.State, &d.EKName, &d.EKPublic, &d.EKCertificate, &d.AKPublic, &d.EKVerified, &d.Machine,
		&d.Grade, when{&d.GradeAt}, when{&d.Created}, when{&d.ApprovedAt}, &d.ApprovedBy, when{&d.LastSeen},
		&d.Running, &d.UpdateTo, &d.UpdateOutcome, &d.SoftwareKeys)
	return d, err
}

// Enroll creates d as Pending, or returns the device that has its id already,
// as it is stored (created false, nothing changed). ErrConflict, beside the
// stored device, if that one has another EK or first key.
func (s *Store) Enroll(ctx context.Context, d Device) (device Device, created bool, err error) {
	if d.ID == "" || len(d.EKName) == 0 {
		return Device{}, false, errors.New("enroll device: id and EK name are required")
	}
	err = s.write(ctx, func(tx *sql.Tx) error {
		n, err := insertDevice(ctx, tx, d)
		if err != nil {
			return err
		}
		created = n == 1
		device, err = one(ctx, tx, scanDevice, `SELECT `+deviceColumns+` FROM devices WHERE id = $1`, d.ID)
		return err
	})
	if err != nil {
		return Device{}, false, fmt.Errorf("enroll device: %w", err)
	}
	if !bytes.Equal(device.EKName, d.EKName) {
		return device, false, fmt.Errorf("enroll device %s: %w", d.ID, ErrConflict)
	}
	if created {
		s.changed(d.ID)
	}
	return device, created, nil
}

func insertDevice(ctx context.Context, tx *sql.Tx, d Device) (int64, error) {
	host := clean(d.Hostname, maxClaim)
	return exec(ctx, tx, `INSERT INTO devices (`+deviceColumns+`, hostname_key, cert_serial, cert_profile, cert_not_before, cert_not_after)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, '', 0, $12, 0, '', $13, '', '', '', $15, $14, '', '', 0, 0) ON CONFLICT (id) DO NOTHING`,
		d.ID, clean(d.Model, maxClaim), host, clean(d.Software, maxClaim), Pending, d.EKName, d.EKPublic, d.EKCertificate, d.AKPublic,
		flag(d.EKVerified), d.Machine, ms(d.Created), ms(d.LastSeen), strings.ToLower(host), flag(d.SoftwareKeys))
}

// update runs a statement on the device id, its first argument.
func (s *Store) update(ctx context.Context, what, query, id string, args ...any) error {
	err := s.write(ctx, func(tx *sql.Tx) error { return execOne(ctx, tx, query, append([]any{id}, args...)...) })
	if err != nil {
		return fmt.Errorf("%s of device %s: %w", what, id, err)
	}
	s.changed(id)
	return nil
}

// UpdateAK replaces the attestation key: a cleared TPM keeps its EK and gets a new AK.
// machine is the one whose maker vouches for the new key; "" if none does, or if it
// vouches for another device by now.
func (s *Store) UpdateAK(ctx context.Context, id string, ak []byte, machine string) error {
	return s.update(ctx, "update attestation key", `UPDATE devices SET ak_public = $2, machine = CASE
		WHEN EXISTS (SELECT 1 FROM devices WHERE machine = $3 AND id <> $1) THEN '' ELSE $3 END WHERE id = $1`, id, ak, machine)
}

// SetGrade records the grade of a verdict. AddVerdict does it too.
func (s *Store) SetGrade(ctx context.Context, id, grade string, at time.Time) error {
	return s.update(ctx, "set grade", `UPDATE devices SET grade = $2, grade_at = $3 WHERE id = $1`, id, grade, ms(at))
}

// Touch records that the device was heard of at time at. software "" leaves
// that as it is; an older time than the last changes nothing.
func (s *Store) Touch(ctx context.Context, id, software string, at time.Time) error {
	return s.update(ctx, "touch", `UPDATE devices SET
		software = CASE WHEN $2 = '' OR last_seen > $3 THEN software ELSE $2 END,
		last_seen = CASE WHEN last_seen > $3 THEN last_seen ELSE $3 END WHERE id = $1`, id, clean(software, maxClaim), ms(at))
}

// SetState changes the state and writes who did it, and why, into the fleet's
// audit. The first change to Active sets ApprovedAt and ApprovedBy. What the
// change means for certificates is the caller's work (RevokeCertificates). The
// server itself (Fleet) brings nobody in and nobody back: ErrState, whatever it
// read before.
func (s *Store) SetState(ctx context.Context, id, state, by, reason string, at time.Time) error {
	switch state {
	case Pending, Active, Quarantined, Revoked, Decommissioned:
	default:
		return fmt.Errorf("set state of device %s: %q is no state", id, state)
	}
	err := s.write(ctx, func(tx *sql.Tx) error { return setState(ctx, tx, id, state, by, reason, at) })
	if err != nil {
		return fmt.Errorf("set state of device %s: %w", id, err)
	}
	s.changed(id)
	return nil
}

func setState(ctx context.Context, tx *sql.Tx, id, state, by, reason string, at time.Time) error {
	if by == Fleet {
		before, err := one(ctx, tx, scanString, `SELECT state FROM devices WHERE id = $1`, id)
		if err == nil && (Out(before) || before == Pending && state != Pending) {
			err = fmt.Errorf("it is %s: %w", before, ErrState)
		}
		if err != nil {
			return err
		}
	}
	err := execOne(ctx, tx, `UPDATE devices SET state = $2,
		approved_by = CASE WHEN $2 = 'active' AND approved_at = 0 THEN $3 ELSE approved_by END,
		approved_at = CASE WHEN $2 = 'active' AND approved_at = 0 THEN $4 ELSE approved_at END WHERE id = $1`, id, state, clean(by, maxClaim), ms(at))
	if err != nil {
		return err
	}
	if err := leaveService(ctx, tx, id, state); err != nil {
		return err
	}
	return addAudit(ctx, tx, AuditEntry{At: at, By: by, Action: "state." + state, Device: id, Text: reason})
}

// Device returns one; ErrNotFound if there is none.
func (s *Store) Device(ctx context.Context, id string) (Device, error) {
	d, err := one(ctx, s.reader, scanDevice, `SELECT `+deviceColumns+` FROM devices WHERE id = $1`, id)
	if err != nil {
		return Device{}, fmt.Errorf("read device %s: %w", id, err)
	}
	return d, nil
}

// Devices returns a page of the devices that f selects, by id. The last id of
// a page is Filter.After of the next.
func (s *Store) Devices(ctx context.Context, f Filter) ([]DeviceRow, error) {
	where, args := f.where()
	rows, err := list(ctx, s.reader, scanDeviceRow, `SELECT id, model, hostname, software, state, ek_verified, machine, grade, grade_at, created,
		approved_at, approved_by, last_seen, running, update_to, update_outcome, software_keys, cert_serial, cert_profile, cert_not_before, cert_not_after
		FROM devices WHERE `+where+` ORDER BY id LIMIT `+strconv.Itoa(page(f.Limit)), args...)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	return rows, nil
}

func scanDeviceRow(r row) (d DeviceRow, err error) {
	err = r.Scan(&d.ID, &d.Model, &d.Hostname, &d.Software, &d.State, &d.EKVerified, &d.Machine, &d.Grade, when{&d.GradeAt}, when{&d.Created},
		when{&d.ApprovedAt}, &d.ApprovedBy, when{&d.LastSeen}, &d.Running, &d.UpdateTo, &d.UpdateOutcome, &d.SoftwareKeys,
		&d.CertSerial, &d.CertProfile, when{&d.CertNotBefore}, when{&d.CertNotAfter})
	return d, err
}

// where is the condition of f. Beginnings are ranges, so that an index serves them.
func (f Filter) where() (string, []any) {
	args := []any{f.After}
	conditions := []string{"id > $1"}
	arg := func(v string) string {
		args = append(args, v)
		return "$" + strconv.Itoa(len(args))
	}
	switch f.Keys {
	case KeysTPM:
		conditions = append(conditions, "software_keys = 0")
	case KeysSoftware:
		conditions = append(conditions, "software_keys = 1")
	}
	for _, c := range []struct{ column, value string }{{"state", f.State}, {"grade", f.Grade}, {"model", f.Model}} {
		if c.value != "" {
			conditions = append(conditions, c.column+" = "+arg(c.value))
		}
	}
	if text := strings.ToLower(clean(f.Search, maxClaim)); text != "" {
		id := "gw-" + strings.TrimPrefix(text, "gw-")
		conditions = append(conditions, `id IN (SELECT id FROM devices WHERE id >= `+arg(id)+` AND id < `+arg(id+"\U0010FFFF")+
			` UNION SELECT id FROM devices WHERE hostname_key >= `+arg(text)+` AND hostname_key < `+arg(text+"\U0010FFFF")+`)`)
	}
	return strings.Join(conditions, " AND "), args
}

// Counts returns how many devices there are of each state and grade.
func (s *Store) Counts(ctx context.Context) ([]Count, error) {
	counts, err := list(ctx, s.reader, func(r row) (c Count, err error) { return c, r.Scan(&c.State, &c.Grade, &c.N) },
		`SELECT state, grade, COUNT(*) FROM devices GROUP BY state, grade ORDER BY state, grade`)
	if err != nil {
		return nil, fmt.Errorf("count devices: %w", err)
	}
	return counts, nil
}
