// Package broker is the MQTT 5 broker that a small fleet embeds.
//
// Its promise: a client is who its certificate says, publishes and reads only
// under its own topics, and can't hurt others: every queue, packet, handshake
// and silence has a bound. What it keeps is in memory: devices and fleet repeat
// what was not acknowledged, so losing all of it loses nothing.
package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
)

// Config of a Broker. All fields are required.
type Config struct {
	// TLS must require and verify client certificates, at TLS 1.3. Its
	// VerifyConnection runs on every connection, resumed ones too.
	TLS *tls.Config
	// Authorize is asked at each connection with the verified certificate's
	// identity (subject common name), serial (lower-case hex) and the certificate
	// itself. It must say whether that certificate may bear that identity, the
	// fleet's own (wire.FleetIdentity) above all.
	Authorize func(ctx context.Context, identity, serial string, peer *x509.Certificate) error
	Limits    Limits
	Log       *slog.Logger
}

func (c *Config) check() error {
	switch {
	case c.TLS == nil, c.Authorize == nil, c.Log == nil:
		return errors.New("make broker: TLS, Authorize and Log are required")
	case c.TLS.ClientAuth != tls.RequireAndVerifyClientCert:
		return errors.New("make broker: TLS must require and verify client certificates")
	case c.TLS.MinVersion < tls.VersionTLS13:
		return errors.New("make broker: TLS must be 1.3 at least")
	}
	return c.Limits.check()
}

// Broker is safe for concurrent use.
type Broker struct {
	cfg    Config
	server *mqtt.Server
	rules  *rules
	served atomic.Bool
}

// New makes a Broker; Serve makes it work.
func New(c Config) (*Broker, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	c.Log = c.Log.With("part", "broker")
	caps := mqtt.NewDefaultServerCapabilities()
	caps.MaximumClients = int64(c.Limits.Clients)
	caps.MaximumSessionExpiryInterval = uint32(c.Limits.Session / time.Second)
	caps.MaximumMessageExpiryInterval = int64(c.Limits.Session / time.Second)
	caps.MaximumClientWritesPending = int32(c.Limits.Queue)
	caps.MaximumInflight = uint16(c.Limits.Queue)
	caps.MaximumPacketSize = uint32(c.Limits.Message)
	caps.MinimumProtocolVersion = 5
	caps.MaximumQos = 1
	caps.RetainAvailable = 0
	// An alias would reach the rules as an empty topic.
	caps.TopicAliasMaximum = 0
	// Else an answer repeats the properties of the question.
	caps.Compatibilities.NoInheritedPropertiesOnAck = true
	b := &Broker{cfg: c, rules: newRules(c)}
	b.server = mqtt.New(&mqtt.Options{
		Capabilities: caps,
		Logger:       slog.New(quiet{c.Log.Handler()}),
		// Nobody may read $SYS; the values are never refreshed (seconds, a year).
		SysTopicResendInterval: 365 * 24 * 3600,
	})
	b.rules.server = b.server
	if err := b.server.AddHook(b.rules, nil); err != nil {
		return nil, fmt.Errorf("make broker: %w", err)
	}
	return b, nil
}

// Serve accepts clients on l, which it closes, until ctx ends; it returns ctx's
// error, or why it can't accept any more. Once only.
func (b *Broker) Serve(ctx context.Context, l net.Listener) error {
	if !b.served.CompareAndSwap(false, true) {
		_ = l.Close()
		return errors.New("serve broker: once only")
	}
	b.rules.ctx = ctx
	door := newDoor(ctx, b.cfg, l, b.rules)
	if err := b.server.AddListener(door); err != nil {
		_ = l.Close()
		return fmt.Errorf("serve broker: %w", err)
	}
	if err := b.server.Serve(); err != nil {
		_ = l.Close()
		return fmt.Errorf("serve broker: %w", err)
	}
	var err error
	select {
	case <-ctx.Done():
		err = ctx.Err()
	case err = <-door.failed:
		err = fmt.Errorf("accept clients: %w", err)
	}
	_ = b.server.Close()
	door.wait()
	return err
}

// Drop ends identity's connection now and forgets its session, what is queued
// for it and its will.
func (b *Broker) Drop(identity string) {
	b.rules.markArriving(identity)
	if cl, ok := b.server.Clients.Get(identity); ok {
		b.rules.drop(cl)
	}
}

// Connected is the number of clients with an open connection.
func (b *Broker) Connected() int { return int(atomic.LoadInt64(&b.server.Info.ClientsConnected)) }
