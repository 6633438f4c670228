package registry

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

const tokenColumns = `id, secret_hash, note, created_by, created, expires, accept_ek, accept_firmware, revoked_at, device, used_at, accept_software`

func scanToken(r row) (t Token, err error) {
	var secret []byte
	err = r.Scan(&t.ID, &secret, &t.Note, &t.By, when{&t.Created}, when{&t.Expires}, &t.AcceptEK, &t.AcceptFirmware,
		when{&t.RevokedAt}, &t.Device, when{&t.UsedAt}, &t.AcceptSoftware)
	if err == nil && copy(t.SecretHash[:], secret) != 32 {
		err = fmt.Errorf("token %s is damaged", t.ID)
	}
	return t, err
}

// AddToken stores a token, with who made it in the audit.
func (s *Store) AddToken(ctx context.Context, t Token) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		_, err := exec(ctx, tx, `INSERT INTO tokens (`+tokenColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, '', 0, $9)`,
			t.ID, t.SecretHash[:], clean(t.Note, maxText), clean(t.By, maxClaim), ms(t.Created), ms(t.Expires), flag(t.AcceptEK), flag(t.AcceptFirmware), flag(t.AcceptSoftware))
		if err != nil {
			return err
		}
		return addAudit(ctx, tx, AuditEntry{At: t.Created, By: t.By, Action: "token.create", Text: t.ID + ": " + t.Note})
	})
	if err != nil {
		return fmt.Errorf("add token: %w", err)
	}
	return nil
}

// Token returns one, in whatever condition; ErrNotFound if it never was. The
// caller compares the hash of the secret in constant time.
func (s *Store) Token(ctx context.Context, id string) (Token, error) {
	t, err := one(ctx, s.reader, scanToken, `SELECT `+tokenColumns+` FROM tokens WHERE id = $1`, id)
	if err != nil {
		return Token{}, fmt.Errorf("read token: %w", err)
	}
	return t, nil
}

// Tokens returns the newest, at most MaxPage.
func (s *Store) Tokens(ctx context.Context) ([]Token, error) {
	all, err := list(ctx, s.reader, scanToken, `SELECT `+tokenColumns+` FROM tokens ORDER BY created DESC, id LIMIT $1`, MaxPage)
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	return all, nil
}

// RevokeToken ends an unused token; ErrNotFound if it is unknown, used or ended.
func (s *Store) RevokeToken(ctx context.Context, id, by, reason string, now time.Time) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		if err := execOne(ctx, tx, `UPDATE tokens SET revoked_at = $2 WHERE id = $1 AND revoked_at = 0 AND device = ''`, id, ms(now)); err != nil {
			return err
		}
		return addAudit(ctx, tx, AuditEntry{At: now, By: by, Action: "token.revoke", Text: id + ": " + reason})
	})
	if err != nil {
		return fmt.Errorf("revoke token: %w", err)
	}
	return nil
}

const allowedColumns = `kind, value, note, created_by, created, accept_firmware, device, used_at`

func scanAllowed(r row) (a Allowed, err error) {
	return a, r.Scan(&a.Kind, &a.Value, &a.Note, &a.By, when{&a.Created}, &a.AcceptFirmware, &a.Device, when{&a.UsedAt})
}

// AddAllowed stores an entry. The same kind and value again replaces it: it
// admits once more.
func (s *Store) AddAllowed(ctx context.Context, a Allowed) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		if _, err := exec(ctx, tx, `DELETE FROM allowed WHERE kind = $1 AND value = $2`, a.Kind, a.Value); err != nil {
			return err
		}
		_, err := exec(ctx, tx, `INSERT INTO allowed (`+allowedColumns+`) VALUES ($1, $2, $3, $4, $5, $6, '', 0)`,
			a.Kind, a.Value, clean(a.Note, maxText), clean(a.By, maxClaim), ms(a.Created), flag(a.AcceptFirmware))
		if err != nil {
			return err
		}
		return addAudit(ctx, tx, AuditEntry{At: a.Created, By: a.By, Action: "allow.add", Text: a.Kind + " " + a.Value + ": " + a.Note})
	})
	if err != nil {
		return fmt.Errorf("add to allow-list: %w", err)
	}
	return nil
}

// RemoveAllowed takes an entry off the list; ErrNotFound if it is not there.
func (s *Store) RemoveAllowed(ctx context.Context, kind, value, by string, now time.Time) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		if err := execOne(ctx, tx, `DELETE FROM allowed WHERE kind = $1 AND value = $2`, kind, value); err != nil {
			return err
		}
		return addAudit(ctx, tx, AuditEntry{At: now, By: by, Action: "allow.remove", Text: kind + " " + value})
	})
	if err != nil {
		return fmt.Errorf("remove from allow-list: %w", err)
	}
	return nil
}

// Allowed returns one entry; ErrNotFound if it is not on the list.
func (s *Store) Allowed(ctx context.Context, kind, value string) (Allowed, error) {
	a, err := one(ctx, s.reader, scanAllowed, `SELECT `+allowedColumns+` FROM allowed WHERE kind = $1 AND value = $2`, kind, value)
	if err != nil {
		return Allowed{}, fmt.Errorf("read allow-list: %w", err)
	}
	return a, nil
}

// AllowList returns a page of the entries, by kind and value; after is the last
// of the page before.
func (s *Store) AllowList(ctx context.Context, after Allowed) ([]Allowed, error) {
	all, err := list(ctx, s.reader, scanAllowed, `SELECT `+allowedColumns+` FROM allowed
		WHERE (kind, value) > ($1, $2) ORDER BY kind, value LIMIT $3`, after.Kind, after.Value, MaxPage)
	if err != nil {
		return nil, fmt.Errorf("list allowed: %w", err)
	}
	return all, nil
}

// Admit makes a pending device Active, and uses up what it rests on, in one
// transaction. Of all calls for one token or entry exactly one succeeds, the
// others get ErrNotFound, as for one that is unknown, revoked or expired.
// ErrState if the device is not Pending. With a.Revoked the device has to be Revoked
// instead, and is approved anew; its certificates stay revoked.
func (s *Store) Admit(ctx context.Context, a Admission) error {
	from := Pending
	if a.Revoked {
		from = Revoked
	}
	err := s.write(ctx, func(tx *sql.Tx) error {
		state, err := one(ctx, tx, scanString, `SELECT state FROM devices WHERE id = $1`, a.Device)
		if err == nil && state != from {
			err = fmt.Errorf("it is %s: %w", state, ErrState)
		}
		if err == nil {
			err = useUp(ctx, tx, a)
		}
		if err != nil {
			return err
		}
		return admit(ctx, tx, a)
	})
	if err != nil {
		return fmt.Errorf("admit device %s: %w", a.Device, err)
	}
	s.changed(a.Device)
	return nil
}

func useUp(ctx context.Context, tx *sql.Tx, a Admission) error {
	if a.Token != "" {
		if err := execOne(ctx, tx, `UPDATE tokens SET device = $2, used_at = $3 WHERE id = $1 AND device = '' AND revoked_at = 0 AND expires > $3`,
			a.Token, a.Device, ms(a.At)); err != nil {
			return fmt.Errorf("use token %s: %w", a.Token, err)
		}
	}
	if a.Allowed == nil {
		return nil
	}
	if err := execOne(ctx, tx, `UPDATE allowed SET device = $3, used_at = $4 WHERE kind = $1 AND value = $2 AND device = ''`,
		a.Allowed.Kind, a.Allowed.Value, a.Device, ms(a.At)); err != nil {
		return fmt.Errorf("use entry of the allow-list: %w", err)
	}
	return nil
}

func admit(ctx context.Context, tx *sql.Tx, a Admission) error {
	if a.Firmware != nil {
		if err := addFirmware(ctx, tx, *a.Firmware, a.By, a.At); err != nil {
			return err
		}
	}
	if a.Revoked {
		if err := execOne(ctx, tx, `UPDATE devices SET approved_at = 0 WHERE id = $1`, a.Device); err != nil {
			return err
		}
	}
	return setState(ctx, tx, a.Device, Active, a.By, a.Reason, a.At)
}

// Detach takes from a device what it was granted, in one transaction: all its
// certificates are revoked, tickets and nonces end, commands that wait are
// withdrawn. state is Revoked, Decommissioned, or Pending for a transfer, which
// also forgets the approval and the attestation key: who holds it next has to be
// approved like a new one. The id stays bound to its EK. ErrState if the device is
// Revoked and shall become anything else: only Admit takes that back.
func (s *Store) Detach(ctx context.Context, id, state, by, reason string, now time.Time) error {
	if state != Pending && !Out(state) {
		return fmt.Errorf("detach device %s: to %q", id, state)
	}
	err := s.write(ctx, func(tx *sql.Tx) error {
		before, err := one(ctx, tx, scanString, `SELECT state FROM devices WHERE id = $1`, id)
		if err == nil && before == Revoked && state != Revoked {
			err = fmt.Errorf("it is revoked: %w", ErrState)
		}
		if err != nil {
			return err
		}
		if err := setState(ctx, tx, id, state, by, reason, now); err != nil {
			return err
		}
		if _, err := revokeCertificates(ctx, tx, id, "", reason, now); err != nil {
			return err
		}
		return forget(ctx, tx, id, state)
	})
	if err != nil {
		return fmt.Errorf("detach device %s: %w", id, err)
	}
	s.changed(id)
	return nil
}

func forget(ctx context.Context, tx *sql.Tx, id, state string) error {
	statements := []string{
		`DELETE FROM tickets WHERE device = $1`, `DELETE FROM nonces WHERE device = $1`,
		`UPDATE commands SET pending = 0 WHERE device = $1 AND pending = 1`,
	}
	if state == Pending {
		statements = append(statements, `UPDATE devices SET ak_public = NULL, approved_at = 0, approved_by = '' WHERE id = $1`)
	}
	for _, statement := range statements {
		if _, err := exec(ctx, tx, statement, id); err != nil {
			return err
		}
	}
	return nil
}
