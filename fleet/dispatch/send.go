package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/mqttconn"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// Send publishes body as kind for a certificate identity and returns when the
// broker has it. A verdict is signed with the message key here; challenge and
// command go as they are.
func (d *Dispatcher) Send(ctx context.Context, identity string, kind wire.Kind, body any) error {
	return d.send(ctx, identity, kind, body, 0)
}

func (d *Dispatcher) send(ctx context.Context, identity string, kind wire.Kind, body any, expiry time.Duration) error {
	if _, _, ok := wire.DeviceOf(identity); !ok {
		return fmt.Errorf("send %s: %q is no device's identity", kind, identity)
	}
	conn, err := d.current()
	if err != nil {
		return fmt.Errorf("send %s: %w", kind, err)
	}
	topic := wire.DownTopic(identity, kind)
	payload, err := d.marshal(topic, kind, body)
	if err != nil {
		return fmt.Errorf("send %s: %w", kind, err)
	}
	if err := conn.Publish(ctx, mqttconn.Message{Topic: topic, Payload: payload, QoS: 1, Expiry: expiry}); err != nil {
		return fmt.Errorf("send %s: %w", kind, err)
	}
	return nil
}

// Deliver publishes a device's pending commands, under the identity that its
// state allows it. It is safe to repeat: a device runs each id once. Commands
// are delivered again at each hello, and each time that we connect, until there
// is a receipt.
func (d *Dispatcher) Deliver(ctx context.Context, device string) error {
	known, err := d.cfg.Registry.Device(ctx, device)
	if err != nil {
		return fmt.Errorf("deliver commands: %w", err)
	}
	identity := device
	if known.State == registry.Quarantined {
		identity = wire.QuarantineID(device)
	}
	return d.deliverTo(ctx, device, identity)
}

// deliverAll delivers what waits now that there is a connection. A device that is
// connected already says no hello: the one that it said while we were away is lost.
func (d *Dispatcher) deliverAll(ctx context.Context) {
	devices, err := d.cfg.Registry.DevicesWithCommands(ctx, d.cfg.Now())
	if err != nil {
		d.cfg.Log.Error("cannot look for commands that wait; they are delivered at the next hello", "error", err)
	}
	for _, device := range devices {
		err := d.Deliver(ctx, device)
		if errors.Is(err, ErrNotConnected) {
			return // the next connection begins anew
		}
		if err != nil {
			d.cfg.Log.Warn("commands not delivered; they will be at the next hello", "device", device, "error", err)
		}
	}
}

func (d *Dispatcher) deliverTo(ctx context.Context, device, identity string) error {
	now := d.cfg.Now()
	pending, err := d.cfg.Registry.PendingCommands(ctx, device, now)
	if err != nil {
		return fmt.Errorf("deliver commands: %w", err)
	}
	for _, c := range pending[:min(len(pending), maxPending)] {
		expiry := maxExpiry
		if !c.Expires.IsZero() {
			expiry = min(expiry, max(c.Expires.Sub(now), time.Second))
		}
		if err := d.send(ctx, identity, wire.KindCommand, json.RawMessage(c.Envelope), expiry); err != nil {
			return fmt.Errorf("deliver commands: %w", err)
		}
	}
	return nil
}

// acknowledge tells each stream how far it is durable. Not waited for: a lost
// ack comes again with the message it was for.
func (d *Dispatcher) acknowledge(ctx context.Context, acks map[ackKey]uint64) {
	conn, err := d.current()
	if err != nil {
		return
	}
	for key, upTo := range acks {
		topic := wire.DownTopic(key.identity, wire.KindAck)
		payload, err := d.marshal(topic, wire.KindAck, wire.Ack{Stream: key.stream, UpTo: upTo})
		if err == nil {
			err = conn.Send(ctx, mqttconn.Message{Topic: topic, Payload: payload})
		}
		if err != nil {
			d.cfg.Log.Debug("ack not sent", "identity", key.identity, "error", err)
		}
	}
}
