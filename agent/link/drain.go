package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/gatewarden/gatewarden/internal/mqttconn"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// drain empties the outbox over one connection. A message leaves the outbox by
// an ack only; what the broker says about it moves nothing.
type drain struct {
	conn     *mqttconn.Conn
	outbox   *Outbox
	identity string
	log      *slog.Logger
	acks     *ackBox
	sent     [classes]cursor
	resend   time.Duration // the wait before the next resend
	broken   error         // of the outbox, as logged last
}

// cursor is how far a stream was sent on this connection.
type cursor struct {
	stream  string
	seq     uint64
	rewound bool // since the last progress
}

// run sends until the connection ends, or wake or ctx asks to. No timer runs
// while nothing is on its way.
func (d *drain) run(ctx context.Context, wake <-chan struct{}) error {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	defer timer.Stop()
	armed := false
	for {
		onWay, err := d.fill(ctx)
		if err != nil {
			return endOf(d.conn, err)
		}
		if onWay != armed {
			if armed = onWay; armed {
				timer.Reset(d.resend)
			} else {
				timer.Stop()
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
			return errReconnect
		case <-d.conn.Done():
			return d.conn.Err()
		case <-d.outbox.changed:
		case <-d.acks.ready:
			if d.acknowledge() {
				armed = false
			}
		case <-timer.C:
			armed = false
			if err := d.again(ctx); err != nil {
				return endOf(d.conn, err)
			}
		}
	}
}

// fill sends until the window is full or nothing is left, security first, and
// reports whether something is on its way.
func (d *drain) fill(ctx context.Context) (onWay bool, err error) {
	for c := range classes {
		for {
			n := d.onWay()
			if n >= window {
				return true, nil
			}
			more, err := d.sendNext(ctx, c)
			if err != nil {
				return false, err
			}
			if !more {
				break
			}
		}
	}
	return d.onWay() > 0, nil
}

// onWay counts stored messages that were sent.
func (d *drain) onWay() int {
	n := 0
	for c := range classes {
		s := d.outbox.stream(c)
		if d.sent[c].stream != s.ID {
			d.sent[c] = cursor{stream: s.ID}
		}
		if d.sent[c].seq >= s.first {
			n += int(d.sent[c].seq + 1 - s.first)
		}
	}
	return n
}

func (d *drain) sendNext(ctx context.Context, c class) (more bool, err error) {
	kind, up, ok, err := d.outbox.next(c, d.sent[c].seq)
	switch {
	case errors.Is(err, errDamaged):
		return false, d.outbox.repair(err)
	case err != nil:
		return false, fmt.Errorf("read outbox: %w", err)
	case !ok:
		return false, nil
	}
	payload, err := encodeUp(up)
	if err != nil {
		return false, err
	}
	if err := d.conn.Send(ctx, mqttconn.Message{Topic: wire.UpTopic(d.identity, kind), Payload: payload, QoS: 1}); err != nil {
		return false, err
	}
	d.sent[c].stream, d.sent[c].seq = up.Stream, up.Seq
	return true, nil
}

// acknowledge applies the acks that came and reports whether the outbox got
// shorter. The first ack that moves nothing while something is on its way says
// that the fleet missed one: what follows is sent again at once.
func (d *drain) acknowledge() (progress bool) {
	for id, upTo := range d.acks.take() {
		for c := range classes {
			before := d.outbox.stream(c)
			if before.ID != id {
				continue
			}
			if err := d.outbox.acknowledge(wire.Ack{Stream: id, UpTo: upTo}); err != nil {
				d.complain(err)
				continue
			}
			after := d.outbox.stream(c)
			switch {
			case after.first != before.first || after.ID != before.ID:
				progress, d.resend, d.sent[c].rewound = true, resendFirst, false
			case d.sent[c].seq >= after.first && !d.sent[c].rewound:
				d.sent[c].seq, d.sent[c].rewound = after.first-1, true
			}
		}
	}
	return progress
}

// again repeats all that waits for an ack. The subscription is renewed first: a
// broker that lost it would keep every ack from us.
func (d *drain) again(ctx context.Context) error {
	d.resend = min(2*d.resend, resendMost)
	for c := range classes {
		d.sent[c].seq = 0
	}
	return d.conn.Subscribe(ctx, wire.DownTopic(d.identity, "+"))
}

// complain logs a disk that takes no acks once; messages then go out again and
// the fleet drops what it knows.
func (d *drain) complain(err error) {
	if d.broken == nil {
		d.log.Error("cannot remove acknowledged messages from the outbox", "error", err)
	}
	d.broken = err
}
