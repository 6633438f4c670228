package registry

import (
	"context"
	"database/sql"
	"time"
)

// Proofs: whether an event of a device's audit log, or the outcome of an update,
// is more than the broker's word.
const (
	ProofNone    = ""        // nothing to prove: the fleet's own word
	ProofClaimed = "claimed" // no quote has named an audit head behind it yet
	ProofQuoted  = "quoted"  // it is in the audit log whose head the TPM quoted
	ProofStray   = "stray"   // the quoted audit log, which holds something newer, does not hold it
)

// proofTables: events are linked by the heads of the device's audit log.
func proofTables() []string {
	return []string{
		`ALTER TABLE events ADD COLUMN prev {TEXT} NOT NULL DEFAULT ''`,
		`ALTER TABLE events ADD COLUMN head {TEXT} NOT NULL DEFAULT ''`,
		`ALTER TABLE events ADD COLUMN proof {TEXT} NOT NULL DEFAULT ''`,
		`CREATE INDEX events_head ON events (device, head) WHERE head <> ''`,
		`CREATE INDEX events_claimed ON events (device, id) WHERE proof = 'claimed'`,
		`ALTER TABLE devices ADD COLUMN audit_head {TEXT} NOT NULL DEFAULT ''`,
		`ALTER TABLE updates ADD COLUMN said {TEXT} NOT NULL DEFAULT ''`,
		`ALTER TABLE updates ADD COLUMN proof {TEXT} NOT NULL DEFAULT ''`,
		`ALTER TABLE verdicts ADD COLUMN claims {BLOB}`,
	}
}

// prove takes in that a quote of the device named this audit head: the event with
// it, and all before it in the chain, are the device's own words. What came before
// it and is not in the chain is not. A head that has not arrived proves nothing yet.
func prove(ctx context.Context, tx *sql.Tx, device, head string, now time.Time) error {
	if head == "" {
		return nil
	}
	_, err := exec(ctx, tx, `WITH RECURSIVE chain (id, prev) AS (
			SELECT id, prev FROM events WHERE device = $1 AND head = $2 AND head <> '' AND proof <> 'quoted'
			UNION SELECT e.id, e.prev FROM events e JOIN chain c ON e.head = c.prev WHERE e.device = $1 AND e.head <> '' AND e.proof <> 'quoted')
		UPDATE events SET proof = 'quoted' WHERE id IN (SELECT id FROM chain)`, device, head)
	if err != nil {
		return err
	}
	if _, err := exec(ctx, tx, `UPDATE updates SET proof = 'quoted' WHERE device = $1 AND proof = 'claimed' AND EXISTS (SELECT 1 FROM events
		WHERE events.device = updates.device AND kind = 'update.' || updates.outcome AND body = updates.said AND events.proof = 'quoted')`, device); err != nil {
		return err
	}
	strays, err := exec(ctx, tx, `UPDATE events SET proof = 'stray' WHERE device = $1 AND proof = 'claimed' AND head <> '' AND id <
		(SELECT MIN(id) FROM events WHERE device = $1 AND head = $2 AND head <> '')`, device, head)
	if err != nil || strays == 0 {
		return err
	}
	return addEvent(ctx, tx, Event{Device: device, At: now, Kind: "audit.stray", Severity: Warning,
		Text: "the audit log that the TPM quoted does not hold every event that came in the gateway's name: forged on the way, or of a log that was damaged since"})
}

// proveNew is prove for an event that came after the quote that names it.
func proveNew(ctx context.Context, tx *sql.Tx, e Event) error {
	quoted, err := one(ctx, tx, scanString, `SELECT audit_head FROM devices WHERE id = $1`, e.Device)
	if err != nil || quoted != e.Head {
		return err
	}
	return prove(ctx, tx, e.Device, e.Head, e.At)
}
