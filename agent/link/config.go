package link

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"log/slog"
	"time"

	"github.com/gatewarden/gatewarden/internal/wire"
)

// Config of a Link. All fields are required but those that say otherwise.
type Config struct {
	// Brokers returns addresses, mqtts://host:port, in order of preference; asked
	// before each attempt.
	Brokers func() []string
	// TLS returns the configuration and the certificate identity to connect with;
	// asked before each attempt. An error waits like a failed attempt.
	TLS func() (*tls.Config, string, error)
	// Outbox is emptied; the caller closes it after Run.
	Outbox *Outbox
	// Keys returns the fleet's message keys: who may sign acks and verdicts.
	Keys func() []ed25519.PublicKey
	// Handle gets what the fleet sends: challenge and command as they arrived,
	// verdict as its verified payload. One call per kind at a time; kinds run
	// beside each other. ctx ends with Run, not with the connection.
	Handle func(ctx context.Context, kind wire.Kind, payload []byte)
	// Hello is published first on each connection.
	Hello func() wire.Hello
	// OnRefused is told when the broker refuses this identity (certificate, client
	// id, authorisation): at most once a minute, and at once after Reconnect. It
	// must not block. May be nil.
	OnRefused func(reason string)
	// Rand returns numbers in [0,1) for jitter; nil means math/rand.
	Rand func() float64
	// MaxBackoff bounds the wait between attempts; 0 means a minute.
	MaxBackoff time.Duration
	Log        *slog.Logger
}

func (c *Config) check() error {
	switch {
	case c.Brokers == nil, c.TLS == nil, c.Keys == nil, c.Handle == nil, c.Hello == nil:
		return errors.New("make link: Brokers, TLS, Keys, Handle and Hello are required")
	case c.Outbox == nil:
		return errors.New("make link: Outbox is required")
	case c.Log == nil:
		return errors.New("make link: Log is required")
	case c.MaxBackoff < 0:
		return errors.New("make link: MaxBackoff is negative")
	}
	return nil
}

// Status of a Link at one moment.
type Status struct {
	Connected bool
	Identity  string    // of the certificate in use or tried last
	Since     time.Time // when Connected became what it is
	Broker    string    // address in use or tried last
	LastError string    // why the last connection or attempt ended; "" if it was closed here
}
