// Package dispatch is the fleet's end of the conversation with its devices: an
// ordinary client of whichever MQTT 5 broker runs.
//
// Its promise: a message of a device's outbox is taken in exactly once and
// acknowledged only when it is durable in the registry; nothing that a device or
// a broker sends can stop the others' messages.
package dispatch

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
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

// ErrNotConnected is returned by Send and Deliver when there is no connection.
var ErrNotConnected = errors.New("no connection to the broker")

// Dispatcher is safe for concurrent use.
type Dispatcher struct {
	cfg       Config
	calls     chan func(context.Context)
	ups       chan incoming
	running   atomic.Bool
	malformed atomic.Uint64

	mu         sync.Mutex
	conn       *mqttconn.Conn
	complained map[string]time.Time // device and kind of event -> when last
}

// New checks c and makes a Dispatcher; Run makes it work.
func New(c Config) (*Dispatcher, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if c.ClientID == "" {
		c.ClientID = wire.FleetIdentity
	}
	if c.MaxBackoff == 0 {
		c.MaxBackoff = defaultBackoff
	}
	c.Log = c.Log.With("part", "dispatch")
	return &Dispatcher{
		cfg: c, calls: make(chan func(context.Context), callQueue), ups: make(chan incoming, ingestQueue),
		complained: map[string]time.Time{},
	}, nil
}

// Run connects, and connects again, until ctx ends; it returns ctx's error.
func (d *Dispatcher) Run(ctx context.Context) error {
	if !d.running.CompareAndSwap(false, true) {
		return errors.New("run dispatcher: it runs already")
	}
	defer d.running.Store(false)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { d.ingest(ctx) })
	for range workers {
		wg.Go(func() { d.work(ctx) })
	}
	for attempt, turn := 0, 0; ; turn++ {
		began := time.Now()
		err := d.session(ctx, d.cfg.Brokers[turn%len(d.cfg.Brokers)])
		if ctx.Err() != nil {
			return ctx.Err()
		}
		d.cfg.Log.Warn("not connected to the broker", "error", err)
		if time.Since(began) > stableAfter {
			attempt = 0
		}
		pause := time.NewTimer(mqttconn.Backoff(attempt, d.cfg.MaxBackoff, rand.Float64()))
		select {
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		case <-pause.C:
		}
		attempt++
	}
}

// session is one connection from beginning to end.
func (d *Dispatcher) session(ctx context.Context, address string) error {
	config, err := d.cfg.TLS()
	if err != nil {
		return fmt.Errorf("get credentials: %w", err)
	}
	conn, err := d.dial(ctx, address, config)
	if err != nil {
		return err
	}
	defer conn.Close()
	filter := wire.UpTopic("+", "+")
	if d.cfg.Group != "" {
		filter = "$share/" + d.cfg.Group + "/" + filter
	}
	if err := conn.Subscribe(ctx, filter); err != nil {
		return err
	}
	d.setConn(conn)
	defer d.setConn(nil)
	d.cfg.Log.Info("connected to the broker", "address", address)
	d.call(ctx, d.deliverAll)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-conn.Done():
		return conn.Err()
	}
}

func (d *Dispatcher) dial(ctx context.Context, address string, config *tls.Config) (*mqttconn.Conn, error) {
	return mqttconn.Dial(ctx, mqttconn.Options{
		URL: address, TLS: config, ClientID: d.cfg.ClientID,
		KeepAlive: keepAlive, SessionExpiry: sessionExpiry, Timeout: answerTimeout,
		MaxTopic: wire.MaxTopic, MaxPayload: wire.MaxMessage, MaxPacket: wire.MaxMessage + 4096,
		OnMessage: func(m mqttconn.Message) { d.receive(ctx, m) },
		OnRejected: func(_ byte, reason string) {
			d.cfg.Log.Error("broker refused a message of the fleet; check its access rules", "reason", reason)
		},
	})
}

func (d *Dispatcher) setConn(conn *mqttconn.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conn = conn
}

func (d *Dispatcher) current() (*mqttconn.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn == nil {
		return nil, ErrNotConnected
	}
	return d.conn, nil
}

// Connected reports whether there is a connection to a broker.
func (d *Dispatcher) Connected() bool {
	_, err := d.current()
	return err == nil
}

// Malformed is the number of messages so far that could not be read.
func (d *Dispatcher) Malformed() uint64 { return d.malformed.Load() }

func (d *Dispatcher) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case call := <-d.calls:
			call(ctx)
		}
	}
}

// marshal encodes body for topic; what devices trust by origin gets signed.
func (d *Dispatcher) marshal(topic string, kind wire.Kind, body any) ([]byte, error) {
	if kind == wire.KindVerdict || kind == wire.KindAck {
		signed, err := Sign(d.cfg.MessageKey, topic, body)
		if err != nil {
			return nil, err
		}
		body = signed
	}
	payload, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", kind, err)
	}
	return payload, nil
}

// Sign wraps body for topic.
func Sign(key ed25519.PrivateKey, topic string, body any) (wire.Signed, error) {
	payload, err := json.Marshal(body)
	if err != nil {
		return wire.Signed{}, fmt.Errorf("encode %s: %w", topic, err)
	}
	return wire.Signed{Payload: payload, Signature: ed25519.Sign(key, wire.SignedBytes(topic, payload))}, nil
}
