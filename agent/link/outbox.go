package link

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/gatewarden/gatewarden/internal/wire"
)

// class of a message: security goes first and is dropped last.
type class int

const (
	security  class = iota // events, receipts and outcomes of updates
	telemetry              // health and link tests
	classes
)

func classOf(kind wire.Kind) (class, bool) {
	switch kind {
	case wire.KindEvent, wire.KindReceipt, wire.KindUpdate:
		return security, true
	case wire.KindHealth, wire.KindLinkTest:
		return telemetry, true
	}
	return 0, false
}

// ErrClosed is returned by an Outbox after Close.
var ErrClosed = errors.New("outbox is closed")

// Outbox keeps messages on disk until the fleet has acknowledged them. Safe for
// concurrent use. What Put accepted survives a power cut; when the outbox is
// full the oldest telemetry is dropped, and only then the oldest security
// message. A damaged file is moved aside, reported and rebuilt.
type Outbox struct {
	path   string
	limits Limits
	log    *slog.Logger

	requests chan *request
	closing  chan struct{}
	ended    chan struct{}
	once     sync.Once
	changed  chan struct{} // one token: something to send may have come

	mu      sync.Mutex // guards what follows; disk work is done by commit alone
	db      *store
	now     streams
	dropped uint64
}

// request is one operation that waits for the next commit.
type request struct {
	class  class
	record []byte    // to append, or
	ack    *wire.Ack // to apply, or
	damage error     // that a reader found
	done   chan error
}

// OpenOutbox opens or makes the outbox at path. A file of a later release is an
// error; so is one that another process holds.
func OpenOutbox(path string, limits Limits, log *slog.Logger) (*Outbox, error) {
	if err := limits.check(); err != nil {
		return nil, err
	}
	if path == "" || log == nil {
		return nil, errors.New("open outbox: path and log are required")
	}
	o := &Outbox{
		path: path, limits: limits, log: log.With("part", "outbox"),
		requests: make(chan *request, maxGroup),
		closing:  make(chan struct{}),
		ended:    make(chan struct{}),
		changed:  make(chan struct{}, 1),
	}
	db, now, err := openStore(path)
	if errors.Is(err, errDamaged) {
		db, now, err = o.rebuild(err)
	}
	if err != nil {
		return nil, fmt.Errorf("open outbox: %w", err)
	}
	o.db, o.now = db, now
	go o.run()
	return o, nil
}

// rebuild moves a damaged file aside and starts a new one, under new streams.
func (o *Outbox) rebuild(cause error) (*store, streams, error) {
	aside := o.path + ".damaged"
	if err := moveAside(o.path, aside); err != nil {
		return nil, streams{}, err
	}
	o.log.Error("outbox was damaged; messages in it are lost, a new one is in use", "cause", cause, "kept", aside)
	return openStore(o.path)
}

// Put stores body, to be sent as kind; at is the device's clock. It is durable
// when Put returns. Kinds that don't wait in an outbox are an error.
func (o *Outbox) Put(kind wire.Kind, at time.Time, body any) error {
	c, ok := classOf(kind)
	if !ok {
		return fmt.Errorf("queue message: kind %q does not wait in the outbox", kind)
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("queue %s: %w", kind, err)
	}
	if len(raw) > wire.MaxBody {
		return fmt.Errorf("queue %s: %d bytes are more than %d", kind, len(raw), wire.MaxBody)
	}
	data, err := encodeRecord(record{Kind: kind, Time: at, Body: raw})
	if err != nil {
		return fmt.Errorf("queue %s: %w", kind, err)
	}
	if err := o.do(&request{class: c, record: data}); err != nil {
		return fmt.Errorf("queue %s: %w", kind, err)
	}
	return nil
}

// acknowledge removes what the fleet has taken in.
func (o *Outbox) acknowledge(ack wire.Ack) error { return o.do(&request{ack: &ack}) }

// repair rebuilds the outbox after a reader found damage.
func (o *Outbox) repair(damage error) error { return o.do(&request{damage: damage}) }

func (o *Outbox) do(r *request) error {
	r.done = make(chan error, 1)
	select {
	case o.requests <- r:
	case <-o.closing:
		return ErrClosed
	}
	select {
	case err := <-r.done:
		return err
	case <-o.ended:
		select { // its commit may have been the last
		case err := <-r.done:
			return err
		default:
			return ErrClosed
		}
	}
}

// Pending is the number of messages that the fleet has not acknowledged.
func (o *Outbox) Pending() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, s := range o.now {
		n += s.count()
	}
	return n
}

// Dropped is the number of messages lost to a full outbox since it was opened.
func (o *Outbox) Dropped() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.dropped
}

// Close ends the outbox; requests that have not been committed get ErrClosed.
func (o *Outbox) Close() error {
	o.once.Do(func() { close(o.closing) })
	<-o.ended
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.db == nil {
		return nil
	}
	err := o.db.close()
	o.db = nil
	return err
}
