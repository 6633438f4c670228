package dispatch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/mqttconn"
	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// incoming is an outbox message on its way to the registry.
type incoming struct {
	identity string
	device   string
	kind     wire.Kind
	up       wire.Up
}

// receive takes in one message. It blocks when the registry can't follow, which
// makes the broker wait.
func (d *Dispatcher) receive(ctx context.Context, m mqttconn.Message) {
	identity, kind, ok := wire.ParseUp(m.Topic)
	device, _, known := wire.DeviceOf(identity)
	if !ok || !known || m.Retained {
		d.malformed.Add(1)
		d.cfg.Log.Warn("message ignored: topic is no device's, or it is a retained one")
		return
	}
	switch kind {
	case wire.KindHello:
		var hello wire.Hello
		if err := decodeHello(m.Payload, &hello); err != nil {
			d.complain(ctx, device, kind, malformed(err))
			return
		}
		d.call(ctx, func(ctx context.Context) { d.hello(ctx, device, identity, hello) })
	case wire.KindEvidence:
		d.call(ctx, func(ctx context.Context) { d.cfg.OnEvidence(ctx, device, identity, m.Payload) })
	case wire.KindHealth, wire.KindEvent, wire.KindReceipt, wire.KindLinkTest, wire.KindUpdate:
		up, err := decodeUp(m.Payload)
		if err != nil {
			d.complain(ctx, device, kind, malformed(err))
			return
		}
		select {
		case d.ups <- incoming{identity: identity, device: device, kind: kind, up: up}:
		case <-ctx.Done():
		}
	default:
		d.complain(ctx, device, kind, malformed(errors.New("unknown kind")))
	}
}

func (d *Dispatcher) call(ctx context.Context, f func(context.Context)) {
	select {
	case d.calls <- f:
	case <-ctx.Done():
	}
}

func (d *Dispatcher) hello(ctx context.Context, device, identity string, hello wire.Hello) {
	known, err := d.cfg.Registry.Device(ctx, device)
	if err != nil || !heard(known.State, identity) {
		d.cfg.Log.Warn("hello ignored", "device", device, "state", known.State, "error", err)
		return
	}
	if err := d.cfg.Registry.Touch(ctx, device, hello.Software, d.cfg.Now()); err != nil {
		d.cfg.Log.Error("cannot note that a device connected", "device", device, "error", err)
	}
	d.cfg.OnHello(ctx, device, identity, hello)
	if !hello.Connected {
		return
	}
	if err := d.deliverTo(ctx, device, identity); err != nil {
		d.cfg.Log.Warn("commands not delivered; they will be at the next hello", "device", device, "error", err)
	}
}

// heard says whether a device in this state is listened to under identity. The
// embedded broker lets no other in; an external one does, as long as its list of
// revoked certificates is old and sessions are open.
func heard(state, identity string) bool {
	_, quarantined, _ := wire.DeviceOf(identity)
	return !registry.Out(state) && (quarantined || state != registry.Quarantined)
}

func decodeHello(payload []byte, h *wire.Hello) error {
	if len(payload) > wire.MaxBody {
		return errTooLong
	}
	if err := strictjson.Inform(payload, h); err != nil {
		return err
	}
	if h.Version != 1 {
		return ofVersion(h.Version)
	}
	if len(h.Software) > maxStream || len(h.Boot) > maxStream {
		return errors.New("a field is too long")
	}
	return nil
}

var errTooLong = errors.New("message is too long")

// ofVersion refuses what is not of version 1.
func ofVersion(v int) error {
	return fmt.Errorf("it is of version %d, this server reads version 1: update the server before its gateways", v)
}

// decodeUp reads the outer form of an outbox message. The body is only known to
// be one JSON value.
func decodeUp(payload []byte) (wire.Up, error) {
	var up wire.Up
	if len(payload) > 2*wire.MaxBody {
		return up, errTooLong
	}
	if err := strictjson.Inform(payload, &up); err != nil {
		return up, err
	}
	switch {
	case up.Version != 1:
		return up, ofVersion(up.Version)
	case !streamName(up.Stream):
		return up, errors.New("stream has no valid name")
	case up.Seq == 0, up.Prev >= up.Seq, up.Seq > 1<<62:
		return up, errors.New("sequence numbers make no sense")
	case len(up.Body) == 0, len(up.Body) > wire.MaxBody:
		return up, errors.New("body is missing or too long")
	}
	return up, nil
}

func streamName(s string) bool {
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return s != "" && len(s) <= maxStream
}

// complain counts a message that makes no sense and puts one line a minute of
// its kind on the device's timeline.
func (d *Dispatcher) complain(ctx context.Context, device string, kind wire.Kind, bad *badBody) {
	d.malformed.Add(1)
	now := d.cfg.Now()
	if !d.mayComplain(device+"/"+bad.kind, now) {
		return
	}
	d.cfg.Log.Warn("message refused", "device", device, "event", bad.kind, "error", bad.cause)
	d.call(ctx, func(ctx context.Context) {
		if _, err := d.cfg.Registry.Device(ctx, device); err != nil {
			return
		}
		err := d.cfg.Registry.AddEvent(ctx, registry.Event{
			Device: device, At: now, Kind: bad.kind, Severity: bad.severity,
			Text: fmt.Sprintf("A %s message was refused: %s.", short(string(kind)), short(bad.Error())),
		})
		if err != nil {
			d.cfg.Log.Error("cannot add to a timeline", "device", device, "error", err)
		}
	})
}

func (d *Dispatcher) mayComplain(about string, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if last, ok := d.complained[about]; ok && now.Sub(last).Abs() < complainSpan {
		return false
	}
	if len(d.complained) >= maxComplaint {
		clear(d.complained)
	}
	d.complained[about] = now
	return true
}

// short bounds a text that a device chose.
func short(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most] + "..."
	}
	quoted := fmt.Sprintf("%+q", s)
	return quoted[1 : len(quoted)-1]
}
