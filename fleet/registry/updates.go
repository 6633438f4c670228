package registry

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/internal/bound"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const updateColumns = `device, update_id, state, outcome, rule, body, product, channel, version, from_version, epoch,
	pending, chunks, fetched, attempts, began, ended, first_at, last_at, proof`

func scanUpdate(r row) (u UpdateRecord, err error) {
	var epoch int64
	err = r.Scan(&u.Device, &u.ID, &u.State, &u.Outcome, &u.Rule, &u.Text, &u.Product, &u.Channel, &u.Release, &u.From, &epoch,
		&u.Pending, &u.Chunks, &u.Fetched, &u.Attempts, when{&u.Began}, when{&u.Ended}, when{&u.First}, when{&u.Last}, &u.Proof)
	u.Version, u.Epoch = 1, uint64(epoch)
	return u, err
}

// putUpdate replaces what the device said before about the same update; but an
// outcome that a quote proved stays.
func putUpdate(ctx context.Context, tx *sql.Tx, device string, u wire.Update, now time.Time) error {
	for _, s := range []*string{&u.ID, &u.State, &u.Outcome, &u.Rule, &u.Product, &u.Channel, &u.Release, &u.From} {
		*s = clean(*s, maxClaim)
	}
	name := u.Product + " " + u.Release
	said, proof := "", ProofNone
	if u.Outcome != "" {
		_, said = bound.Outcome(u)
		said, proof = clean(said, maxText), ProofClaimed
	}
	n, err := exec(ctx, tx, `INSERT INTO updates (`+updateColumns+`, name, said, latest)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $18, $20, $19, $21, 1)
		ON CONFLICT (device, update_id) DO UPDATE SET state = excluded.state, outcome = excluded.outcome, rule = excluded.rule, body = excluded.body,
			product = excluded.product, channel = excluded.channel, version = excluded.version, from_version = excluded.from_version,
			epoch = excluded.epoch, chunks = excluded.chunks, fetched = excluded.fetched, attempts = excluded.attempts,
			began = excluded.began, ended = excluded.ended, last_at = excluded.last_at, name = excluded.name, latest = 1,
			pending = CASE WHEN updates.outcome = excluded.outcome THEN updates.pending ELSE excluded.pending END,
			said = excluded.said, proof = CASE WHEN updates.said = excluded.said THEN updates.proof ELSE excluded.proof END
		WHERE updates.proof <> 'quoted' OR updates.said = excluded.said`,
		device, u.ID, u.State, u.Outcome, u.Rule, clean(u.Text, maxText), u.Product, u.Channel, u.Release, u.From, int64(u.Epoch),
		flag(u.Pending), u.Chunks, u.Fetched, u.Attempts, ms(u.Began), ms(u.Ended), ms(now), name, proof, said)
	if err != nil || n == 0 {
		return err
	}
	if _, err := exec(ctx, tx, `UPDATE updates SET latest = 0 WHERE device = $1 AND name = $2 AND update_id <> $3`, device, name, u.ID); err != nil {
		return err
	}
	if _, err := exec(ctx, tx, `DELETE FROM updates WHERE device = $1 AND id NOT IN
		(SELECT id FROM updates WHERE device = $1 ORDER BY id DESC LIMIT $2)`, device, MaxUpdates); err != nil {
		return err
	}
	if u.Release == "" { // about the repository, not about a release
		return nil
	}
	_, err = exec(ctx, tx, `UPDATE devices SET update_to = $2, update_outcome = $3 WHERE id = $1`, device, u.Release, u.Outcome)
	return err
}

// settle ends the wait of a release that was kept without a verdict: v is the first
// one since. Said again, the outcome does not begin it anew.
func settle(ctx context.Context, tx *sql.Tx, v Verdict) error {
	kept, err := list(ctx, tx, scanString, `UPDATE updates SET pending = 0
		WHERE device = $1 AND pending = 1 AND outcome = 'installed' AND last_at <= $2 RETURNING name`, v.Device, ms(v.At))
	if err != nil {
		return fmt.Errorf("settle update: %w", err)
	}
	severity := Info
	if v.Grade == "untrusted" {
		severity = Warning
	}
	for _, name := range kept {
		err := addEvent(ctx, tx, Event{Device: v.Device, At: v.At, Kind: "update.judged", Severity: severity,
			Text: fmt.Sprintf("%s was kept while no verdict could be had. The first one since is %s.", name, v.Grade)})
		if err != nil {
			return fmt.Errorf("settle update: %w", err)
		}
	}
	return nil
}

// Updates returns a device's, the one that began last first.
func (s *Store) Updates(ctx context.Context, device string, limit int) ([]UpdateRecord, error) {
	us, err := list(ctx, s.reader, scanUpdate, `SELECT `+updateColumns+` FROM updates WHERE device = $1 ORDER BY id DESC LIMIT $2`, device, page(limit))
	if err != nil {
		return nil, fmt.Errorf("list updates of device %s: %w", device, err)
	}
	return us, nil
}

// Releases counts devices by release ("product version"); at most MaxPage names.
func (s *Store) Releases(ctx context.Context, names []string) (map[string]ReleaseCount, error) {
	names = names[:min(len(names), MaxPage)]
	counts := make(map[string]ReleaseCount, len(names))
	if len(names) == 0 {
		return counts, nil
	}
	args := make([]any, len(names))
	for i, name := range names {
		args[i] = name
	}
	rows, err := list(ctx, s.reader, scanReleaseRow, releaseQuery(len(names)), args...)
	if err != nil {
		return nil, fmt.Errorf("count devices by release: %w", err)
	}
	for _, r := range rows {
		c := counts[r.name]
		c.add(r.what, r.n)
		counts[r.name] = c
	}
	return counts, nil
}

// releaseQuery counts by name and by what devices do with it, from indexes alone.
// Outcomes are devices' claims: those that nobody knows are left out.
func releaseQuery(names int) string {
	in := make([]string, names)
	for i := range in {
		in[i] = "$" + strconv.Itoa(i+1)
	}
	list := "(" + strings.Join(in, ", ") + ")"
	return `SELECT running, 'running', COUNT(*) FROM devices WHERE running IN ` + list + ` AND state NOT IN ('revoked', 'decommissioned') GROUP BY running
		UNION ALL SELECT name, outcome, COUNT(*) FROM updates WHERE latest = 1 AND name IN ` + list + `
		AND outcome IN ('', 'installed', 'failed', 'refused', 'rolled-back') GROUP BY name, outcome`
}

type releaseRow struct {
	name, what string
	n          int
}

func scanReleaseRow(r row) (c releaseRow, err error) { return c, r.Scan(&c.name, &c.what, &c.n) }

func (c *ReleaseCount) add(what string, n int) {
	switch what {
	case "running":
		c.Running = n
	case "":
		c.UnderWay = n
	case wire.UpdateInstalled:
		c.Installed = n
	case wire.UpdateFailed:
		c.Failed = n
	case wire.UpdateRefused:
		c.Refused = n
	case wire.UpdateRolledBack:
		c.RolledBack = n
	}
}
