package dispatch

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"log/slog"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// Registry is what dispatch needs of the registry; fleet/registry.Store is one.
type Registry interface {
	Device(ctx context.Context, id string) (registry.Device, error)
	Touch(ctx context.Context, id, software string, at time.Time) error
	Certificate(ctx context.Context, serial string) (registry.Certificate, error)
	AcceptAll(ctx context.Context, ms []registry.Message) ([]registry.Acceptance, error)
	AddEvent(ctx context.Context, e registry.Event) error
	PendingCommands(ctx context.Context, device string, now time.Time) ([]registry.CommandRecord, error)
	DevicesWithCommands(ctx context.Context, now time.Time) ([]string, error)
}

// Config of a Dispatcher. All fields are required but those that say otherwise.
type Config struct {
	Brokers []string // mqtts://host:port, tried in turn
	// TLS returns the configuration to connect with; its certificate's identity is
	// wire.FleetIdentity. Asked before each attempt.
	TLS        func() (*tls.Config, error)
	Registry   Registry
	MessageKey ed25519.PrivateKey // signs acks and verdicts
	// OnHello is told that a device connected: time for a challenge. Calls for one
	// device may come beside each other and more than once.
	OnHello func(ctx context.Context, device, identity string, hello wire.Hello)
	// OnEvidence gets an attest.Evidence, not yet decoded.
	OnEvidence func(ctx context.Context, device, identity string, payload []byte)
	// Group subscribes as $share/<Group>/..., for replicas that share the work; empty:
	// a plain subscription. Whoever knows the name can take messages away where the
	// broker has no rule about subscriptions (docs/adr/040).
	Group string
	// ClientID defaults to wire.FleetIdentity; replicas need one each, which their
	// broker must allow.
	ClientID string
	// MaxBackoff bounds the wait between attempts to connect; 0 means 10 s.
	MaxBackoff time.Duration
	Now        func() time.Time
	Log        *slog.Logger
}

func (c *Config) check() error {
	switch {
	case len(c.Brokers) == 0, c.TLS == nil, c.Registry == nil, c.OnHello == nil, c.OnEvidence == nil:
		return errors.New("make dispatcher: Brokers, TLS, Registry, OnHello and OnEvidence are required")
	case len(c.MessageKey) != ed25519.PrivateKeySize:
		return errors.New("make dispatcher: MessageKey is not an ed25519 private key")
	case c.Now == nil, c.Log == nil:
		return errors.New("make dispatcher: Now and Log are required")
	case c.MaxBackoff < 0:
		return errors.New("make dispatcher: MaxBackoff is negative")
	}
	return nil
}
