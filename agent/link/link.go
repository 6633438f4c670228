// Package link is the device's end of the conversation with its fleet: one MQTT
// session and an outbox on disk.
//
// Its promise: what Outbox.Put accepted reaches the fleet once, in order within
// its class, however often broker, network or power fail, and nobody but the
// fleet's message key can make the device forget a message. A hostile broker can
// delay and withhold; it can't forge, reorder or repeat.
package link

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatewarden/gatewarden/internal/mqttconn"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// ErrNotConnected is returned by Publish when there is no connection.
var ErrNotConnected = errors.New("not connected")

// Link keeps one connection to a broker. Safe for concurrent use.
type Link struct {
	cfg     Config
	inbox   map[wire.Kind]chan []byte
	wake    chan struct{} // one token: make a new connection now
	running atomic.Bool

	mu      sync.Mutex
	status  Status
	conn    *mqttconn.Conn
	refused time.Time // of the last call of OnRefused
}

// New checks c and makes a Link; Run makes it work.
func New(c Config) (*Link, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if c.Rand == nil {
		c.Rand = rand.Float64
	}
	if c.MaxBackoff == 0 {
		c.MaxBackoff = defaultBackoff
	}
	c.Log = c.Log.With("part", "link")
	return &Link{
		cfg:  c,
		wake: make(chan struct{}, 1),
		inbox: map[wire.Kind]chan []byte{
			// Of challenges and verdicts only the latest matters.
			wire.KindChallenge: make(chan []byte, 1),
			wire.KindVerdict:   make(chan []byte, 1),
			wire.KindCommand:   make(chan []byte, handleQueue),
		},
	}, nil
}

// Run connects, and connects again, until ctx ends; it returns ctx's error.
func (l *Link) Run(ctx context.Context) error {
	if !l.running.CompareAndSwap(false, true) {
		return errors.New("run link: it runs already")
	}
	defer l.running.Store(false)
	ctx, cancel := context.WithCancel(ctx)
	var workers sync.WaitGroup
	defer workers.Wait()
	defer cancel()
	for kind, queue := range l.inbox {
		workers.Go(func() { l.work(ctx, kind, queue) })
	}
	for attempt, turn := 0, 0; ; {
		began := time.Now()
		err := l.session(ctx, turn)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, errReconnect) {
			attempt = 0
			continue
		}
		l.report(err)
		turn++
		if time.Since(began) > stableAfter {
			attempt = 0
		}
		if l.pause(ctx, mqttconn.Backoff(attempt, l.cfg.MaxBackoff, l.cfg.Rand())) {
			attempt = 0
			continue
		}
		attempt++
	}
}

// pause waits for d and reports whether Reconnect cut it short.
func (l *Link) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-l.wake:
		return true
	}
	return false
}

// Reconnect makes a new connection now, with what Config.TLS returns by then:
// the credentials changed. Nothing is lost and nothing comes twice.
func (l *Link) Reconnect() {
	l.mu.Lock()
	l.refused = time.Time{}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Publish sends body as kind (hello or evidence) without queueing it and returns
// when the broker has it.
func (l *Link) Publish(ctx context.Context, kind wire.Kind, body any) error {
	if kind != wire.KindHello && kind != wire.KindEvidence {
		return fmt.Errorf("publish: kind %q goes through the outbox", kind)
	}
	payload, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("publish %s: %w", kind, err)
	}
	l.mu.Lock()
	conn, identity := l.conn, l.status.Identity
	l.mu.Unlock()
	if conn == nil {
		return fmt.Errorf("publish %s: %w", kind, ErrNotConnected)
	}
	if err := conn.Publish(ctx, mqttconn.Message{Topic: wire.UpTopic(identity, kind), Payload: payload, QoS: 1}); err != nil {
		return fmt.Errorf("publish %s: %w", kind, err)
	}
	return nil
}

// Status returns the link's state.
func (l *Link) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status
}

// report keeps why a session ended and tells of a refused identity.
func (l *Link) report(err error) {
	if err == nil {
		err = errors.New("connection closed")
	}
	l.mu.Lock()
	l.status.LastError = err.Error()
	l.mu.Unlock()
	l.cfg.Log.Info("not connected", "error", err)
	var refused *mqttconn.Refused
	if errors.As(err, &refused) && refused.Credentials() {
		l.tellRefused(refused.Error())
	}
}

// tellRefused says nothing while Reconnect waits: what was refused is replaced already.
func (l *Link) tellRefused(reason string) {
	if len(l.wake) > 0 {
		return
	}
	l.mu.Lock()
	due := l.refused.IsZero() || time.Since(l.refused) >= refusedEvery
	if due {
		l.refused = time.Now()
	}
	l.mu.Unlock()
	if due && l.cfg.OnRefused != nil {
		l.cfg.OnRefused(reason)
	}
}
