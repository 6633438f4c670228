package registry

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

const certificateColumns = `serial, device, identity, profile, spki, not_before, not_after, issued_at, revoked_at, reason, der`

func scanCertificate(r row) (c Certificate, err error) {
	err = r.Scan(&c.Serial, &c.Device, &c.Identity, &c.Profile, &c.SPKI, when{&c.NotBefore}, when{&c.NotAfter}, when{&c.IssuedAt},
		when{&c.RevokedAt}, &c.Reason, &c.DER)
	return c, err
}

// issuing holds the statements of AddCertificate, parsed once: that is half of what
// a certificate costs the journal.
type issuing struct{ add, show *sql.Stmt }

func (s *Store) prepareIssuing(ctx context.Context) (err error) {
	s.issuing.add, err = s.writer.PrepareContext(ctx, `INSERT INTO certificates (`+certificateColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, '', $9)`)
	if err != nil {
		return fmt.Errorf("prepare statement: %w", err)
	}
	s.issuing.show, err = s.writer.PrepareContext(ctx, `UPDATE devices SET cert_serial = $2, cert_profile = $3, cert_not_before = $4, cert_not_after = $5
		WHERE id = $1 AND state IN ('active', 'quarantined')`)
	if err != nil {
		return fmt.Errorf("prepare statement: %w", err)
	}
	return nil
}

// AddCertificate writes c into the journal; only then may it be handed out.
// With a ticket, that is consumed in the same transaction, as of c.IssuedAt:
// ErrNotFound if it can't be. ErrState if the device is Pending or out; which
// profile it may have is the gate's decision. A certificate of the fleet's own
// has Device "".
func (s *Store) AddCertificate(ctx context.Context, c Certificate, ticket string) error {
	err := s.writeShared(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if ticket != "" {
			if err := consumeTicket(ctx, tx, ticket, c.Device, c.IssuedAt); err != nil {
				return fmt.Errorf("consume ticket: %w", err)
			}
		}
		if c.Device != "" {
			if err := s.showCertificate(ctx, tx, c); err != nil {
				return err
			}
		}
		_, err := tx.StmtContext(ctx, s.issuing.add).ExecContext(ctx,
			c.Serial, c.Device, c.Identity, c.Profile, c.SPKI, ms(c.NotBefore), ms(c.NotAfter), ms(c.IssuedAt), c.DER)
		return err
	})
	if err != nil {
		return fmt.Errorf("add certificate %s: %w", c.Serial, err)
	}
	s.changed(c.Device)
	return nil
}

// showCertificate puts c into its device's row. Check and change are one
// statement: a revocation comes either before, or after and finds c.
func (s *Store) showCertificate(ctx context.Context, tx *sql.Tx, c Certificate) error {
	done, err := tx.StmtContext(ctx, s.issuing.show).ExecContext(ctx, c.Device, c.Serial, c.Profile, ms(c.NotBefore), ms(c.NotAfter))
	if err != nil {
		return err
	}
	if n, err := done.RowsAffected(); err != nil || n == 1 {
		return err
	}
	state, err := one(ctx, tx, scanString, `SELECT state FROM devices WHERE id = $1`, c.Device)
	if err != nil {
		return fmt.Errorf("read device %s: %w", c.Device, err)
	}
	return fmt.Errorf("device %s is %s: %w", c.Device, state, ErrState)
}

// Certificate returns one; ErrNotFound if this fleet never issued it.
func (s *Store) Certificate(ctx context.Context, serial string) (Certificate, error) {
	c, err := one(ctx, s.reader, scanCertificate, `SELECT `+certificateColumns+` FROM certificates WHERE serial = $1`, serial)
	if err != nil {
		return Certificate{}, fmt.Errorf("read certificate %s: %w", serial, err)
	}
	return c, nil
}

// Certificates returns a device's, newest first, at most MaxPage.
func (s *Store) Certificates(ctx context.Context, device string) ([]Certificate, error) {
	cs, err := list(ctx, s.reader, scanCertificate, `SELECT `+certificateColumns+` FROM certificates
		WHERE device = $1 ORDER BY issued_at DESC, serial LIMIT $2`, device, MaxPage)
	if err != nil {
		return nil, fmt.Errorf("list certificates of device %s: %w", device, err)
	}
	return cs, nil
}

// RevokeCertificates revokes all of the device's that are good at now, but not
// the one with serial except, and returns the serials of those it revoked.
func (s *Store) RevokeCertificates(ctx context.Context, device, except, reason string, now time.Time) ([]string, error) {
	var serials []string
	err := s.write(ctx, func(tx *sql.Tx) (err error) {
		serials, err = revokeCertificates(ctx, tx, device, except, reason, now)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("revoke certificates of device %s: %w", device, err)
	}
	s.changed(device)
	return serials, nil
}

func revokeCertificates(ctx context.Context, tx *sql.Tx, device, except, reason string, now time.Time) ([]string, error) {
	return list(ctx, tx, scanString, `UPDATE certificates SET revoked_at = $1, reason = $2
		WHERE device = $3 AND serial <> $4 AND revoked_at = 0 AND not_after > $1 RETURNING serial`, ms(now), clean(reason, maxText), device, except)
}

// IsRevoked says whether the certificate was revoked. An unknown serial is
// ErrNotFound: refuse it.
func (s *Store) IsRevoked(ctx context.Context, serial string) (bool, error) {
	c, err := s.Certificate(ctx, serial)
	return !c.RevokedAt.IsZero(), err
}

// Ended returns the identities of devices that have no good certificate at now,
// because one was revoked after since.
func (s *Store) Ended(ctx context.Context, since, now time.Time) ([]string, error) {
	ids, err := list(ctx, s.reader, scanString, endedQuery, ms(now), ms(since))
	if err != nil {
		return nil, fmt.Errorf("list ended identities: %w", err)
	}
	return ids, nil
}

const endedQuery = `SELECT DISTINCT identity FROM certificates AS ended WHERE revoked_at > $2 AND revoked_at > 0 AND not_after > $1 AND device <> ''
	AND NOT EXISTS (SELECT 1 FROM certificates AS good WHERE good.device = ended.device AND good.identity = ended.identity AND good.revoked_at = 0 AND good.not_after > $1)`

// Revoked returns the revoked certificates that expire after now: what a CRL lists.
func (s *Store) Revoked(ctx context.Context, now time.Time) ([]Certificate, error) {
	cs, err := list(ctx, s.reader, scanCertificate, `SELECT `+certificateColumns+` FROM certificates
		WHERE revoked_at > 0 AND not_after > $1 ORDER BY serial`, ms(now))
	if err != nil {
		return nil, fmt.Errorf("list revoked certificates: %w", err)
	}
	return cs, nil
}
