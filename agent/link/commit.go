package link

import (
	"errors"

	"github.com/gatewarden/gatewarden/internal/wire"
)

// run commits requests in groups: those that came while the disk was busy share
// the next sync.
func (o *Outbox) run() {
	defer close(o.ended)
	for {
		var first *request
		select {
		case <-o.closing:
			return
		case first = <-o.requests:
		}
		group := []*request{first}
	collect:
		for len(group) < maxGroup {
			select {
			case r := <-o.requests:
				group = append(group, r)
			default:
				break collect
			}
		}
		err := o.commit(group)
		for _, r := range group {
			r.done <- err
		}
		select {
		case o.changed <- struct{}{}:
		default:
		}
	}
}

func (o *Outbox) commit(group []*request) error {
	var err error
	for _, r := range group {
		err = errors.Join(err, r.damage)
	}
	if err == nil {
		err = o.try(group)
	}
	if !errors.Is(err, errDamaged) {
		return err
	}
	db, now, err := o.rebuild(err)
	if err != nil {
		return err
	}
	o.mu.Lock()
	o.db, o.now = db, now
	o.mu.Unlock()
	return o.try(group)
}

// try applies group in one transaction; memory follows only if it is on disk.
func (o *Outbox) try(group []*request) error {
	o.mu.Lock()
	db, now := o.db, o.now
	o.mu.Unlock()
	var lost uint64
	err := db.update(func(tx *storeTx) error {
		for _, r := range group {
			switch {
			case r.damage != nil:
				continue
			case r.ack != nil:
				if err := tx.apply(&now, *r.ack); err != nil {
					return err
				}
				continue
			}
			if err := tx.append(&now, r.class, r.record); err != nil {
				return err
			}
			n, err := tx.trim(&now, o.limits)
			if err != nil {
				return err
			}
			lost += n
		}
		return tx.save(now)
	})
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if lost > 0 && o.dropped == 0 {
		o.log.Error("outbox is full: the oldest messages get lost", "limit_bytes", o.limits.Bytes, "limit_count", o.limits.Count)
	}
	o.now, o.dropped = now, o.dropped+lost
	return nil
}

// next returns the oldest message of class c above seq, ready to be sent.
func (o *Outbox) next(c class, seq uint64) (wire.Kind, wire.Up, bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.db == nil {
		return "", wire.Up{}, false, ErrClosed
	}
	s := o.now[c]
	seq = max(seq+1, s.first)
	if seq > s.last {
		return "", wire.Up{}, false, nil
	}
	rec, err := o.db.read(c, seq) // fast: the page is mapped
	if err != nil {
		return "", wire.Up{}, false, err
	}
	return rec.Kind, wire.Up{Version: 1, Stream: s.ID, Seq: seq, Prev: s.prev(seq), Time: rec.Time, Body: rec.Body}, true, nil
}

// stream returns the state of class c.
func (o *Outbox) stream(c class) stream {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.now[c]
}
