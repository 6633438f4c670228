package registry

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// How many may be open for one device at a time; the ones that expire first
// make room for new ones.
const (
	MaxTickets = 32
	MaxNonces  = 8
)

const ticketColumns = `id, device, secret_hash, csr_hash, key_hash, ak_public, expires, token, machine`

// PutTicket opens t. Its device must be enrolled.
func (s *Store) PutTicket(ctx context.Context, t Ticket) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		_, err := exec(ctx, tx, `INSERT INTO tickets (`+ticketColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			t.ID, t.Device, t.SecretHash[:], t.CSRHash[:], t.Key, t.AKPublic, ms(t.Expires), t.Token, t.Machine)
		if err != nil {
			return err
		}
		_, err = exec(ctx, tx, `DELETE FROM tickets WHERE device = $1 AND id <> $2 AND id NOT IN
			(SELECT id FROM tickets WHERE device = $1 AND id <> $2 ORDER BY expires DESC, id LIMIT $3)`, t.Device, t.ID, MaxTickets-1)
		return err
	})
	if err != nil {
		return fmt.Errorf("put ticket: %w", err)
	}
	return nil
}

// Ticket returns an open ticket; ErrNotFound if it is unknown, consumed or expired.
// The caller compares the hash of the secret in constant time.
func (s *Store) Ticket(ctx context.Context, id string, now time.Time) (Ticket, error) {
	t, err := one(ctx, s.reader, scanTicket, `SELECT `+ticketColumns+`
		FROM tickets WHERE id = $1 AND expires > $2`, id, ms(now))
	if err != nil {
		return Ticket{}, fmt.Errorf("read ticket: %w", err)
	}
	return t, nil
}

func scanTicket(r row) (t Ticket, err error) {
	var secret, csr []byte
	if err := r.Scan(&t.ID, &t.Device, &secret, &csr, &t.Key, &t.AKPublic, when{&t.Expires}, &t.Token, &t.Machine); err != nil {
		return Ticket{}, err
	}
	if copy(t.SecretHash[:], secret) != 32 || copy(t.CSRHash[:], csr) != 32 {
		return Ticket{}, fmt.Errorf("ticket %s is damaged", t.ID)
	}
	return t, nil
}

// ConsumeTicket ends a ticket. Of all calls for one ticket exactly one succeeds,
// the others get ErrNotFound.
func (s *Store) ConsumeTicket(ctx context.Context, id string, now time.Time) error {
	err := s.write(ctx, func(tx *sql.Tx) error { return consumeTicket(ctx, tx, id, "", now) })
	if err != nil {
		return fmt.Errorf("consume ticket: %w", err)
	}
	return nil
}

// consumeTicket with device "" takes any device's.
func consumeTicket(ctx context.Context, tx *sql.Tx, id, device string, now time.Time) error {
	return execOne(ctx, tx, `DELETE FROM tickets WHERE id = $1 AND expires > $2 AND (device = $3 OR $3 = '')`, id, ms(now), device)
}

// PutNonce opens a nonce for one device.
func (s *Store) PutNonce(ctx context.Context, device string, nonce []byte, expires time.Time) error {
	hash := hashHex(nonce)
	err := s.write(ctx, func(tx *sql.Tx) error {
		if _, err := exec(ctx, tx, `INSERT INTO nonces (nonce_hash, device, expires) VALUES ($1, $2, $3)`, hash, device, ms(expires)); err != nil {
			return err
		}
		_, err := exec(ctx, tx, `DELETE FROM nonces WHERE device = $1 AND nonce_hash <> $2 AND nonce_hash NOT IN
			(SELECT nonce_hash FROM nonces WHERE device = $1 AND nonce_hash <> $2 ORDER BY expires DESC, nonce_hash LIMIT $3)`, device, hash, MaxNonces-1)
		return err
	})
	if err != nil {
		return fmt.Errorf("put nonce of device %s: %w", device, err)
	}
	return nil
}

// ConsumeNonce ends a nonce and returns when it would have expired: exactly once,
// and only for the device that it was made for, before that. Else ErrNotFound;
// another device's attempt leaves the nonce as it is.
func (s *Store) ConsumeNonce(ctx context.Context, device string, nonce []byte, now time.Time) (expires time.Time, err error) {
	err = s.write(ctx, func(tx *sql.Tx) error {
		expires, err = one(ctx, tx, scanTime, `DELETE FROM nonces WHERE nonce_hash = $1 AND device = $2 AND expires > $3 RETURNING expires`,
			hashHex(nonce), device, ms(now))
		return err
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("consume nonce of device %s: %w", device, err)
	}
	return expires, nil
}

func scanTime(r row) (t time.Time, err error) {
	err = r.Scan(when{&t})
	return t, err
}
