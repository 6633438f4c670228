package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// ackKey names whom to tell about a stream.
type ackKey struct{ identity, stream string }

// ingest puts messages into the registry: those that came while it was busy
// share the next transaction.
func (d *Dispatcher) ingest(ctx context.Context) {
	for {
		var group []incoming
		select {
		case <-ctx.Done():
			return
		case first := <-d.ups:
			group = append(group, first)
		}
	collect:
		for len(group) < maxGroup {
			select {
			case next := <-d.ups:
				group = append(group, next)
			default:
				break collect
			}
		}
		d.acknowledge(ctx, d.accept(ctx, group))
	}
}

// accept returns what may be acknowledged. What could not be stored is left to
// the device, which sends it again.
func (d *Dispatcher) accept(ctx context.Context, group []incoming) map[ackKey]uint64 {
	group, messages := d.prepare(ctx, group)
	if len(messages) == 0 {
		return nil
	}
	accepted, err := d.cfg.Registry.AcceptAll(ctx, messages)
	if err == nil && len(accepted) != len(messages) {
		err = fmt.Errorf("registry answered %d of %d", len(accepted), len(messages))
	}
	if err != nil && len(messages) > 1 {
		// One that can't be stored must not keep out the others.
		acks := map[ackKey]uint64{}
		for i := range group {
			for key, upTo := range d.acceptOne(ctx, group[i], messages[i]) {
				acks[key] = upTo
			}
		}
		return acks
	}
	if err != nil {
		d.cfg.Log.Error("cannot store messages; devices keep them", "error", err)
		return nil
	}
	return d.acksOf(group, accepted)
}

func (d *Dispatcher) acceptOne(ctx context.Context, in incoming, m registry.Message) map[ackKey]uint64 {
	accepted, err := d.cfg.Registry.AcceptAll(ctx, []registry.Message{m})
	if err != nil || len(accepted) != 1 {
		d.cfg.Log.Error("cannot store a message; the device keeps it", "device", in.device, "error", err)
		return nil
	}
	return d.acksOf([]incoming{in}, accepted)
}

func (d *Dispatcher) acksOf(group []incoming, accepted []registry.Acceptance) map[ackKey]uint64 {
	acks := map[ackKey]uint64{}
	for i, in := range group {
		if err := accepted[i].Err; err != nil {
			d.cfg.Log.Error("cannot store a message; the device keeps it", "device", in.device, "error", err)
			continue
		}
		acks[ackKey{in.identity, in.up.Stream}] = accepted[i].UpTo
	}
	return acks
}

// prepare turns messages into rows; those of unknown or revoked devices, and of
// identities that have ended, are left out.
func (d *Dispatcher) prepare(ctx context.Context, group []incoming) (kept []incoming, rows []registry.Message) {
	welcome := map[string]bool{}
	for _, in := range group {
		if _, asked := welcome[in.identity]; !asked {
			known, err := d.cfg.Registry.Device(ctx, in.device)
			welcome[in.identity] = err == nil && heard(known.State, in.identity)
			if !welcome[in.identity] {
				d.cfg.Log.Warn("message ignored", "identity", in.identity, "state", known.State, "error", err)
			}
		}
		if !welcome[in.identity] {
			continue
		}
		row, err := d.row(ctx, in)
		if err != nil {
			d.cfg.Log.Error("cannot look at a message; the device keeps it", "device", in.device, "error", err)
			continue
		}
		kept, rows = append(kept, in), append(rows, row)
	}
	return kept, rows
}

// row decides what a message changes. One whose body makes no sense is taken in
// too, as such: refusing it would stop its stream for ever. An error says that
// the registry could not be asked.
func (d *Dispatcher) row(ctx context.Context, in incoming) (registry.Message, error) {
	now := d.cfg.Now()
	row := registry.Message{
		Device: in.device, Stream: in.up.Stream, Seq: in.up.Seq, Prev: in.up.Prev,
		Kind: string(in.kind), Time: in.up.Time, Received: now, Body: in.up.Body,
	}
	if lost := in.up.Seq - in.up.Prev - 1; lost > 0 {
		row.Timeline = append(row.Timeline, registry.Event{
			Device: in.device, At: now, Kind: "outbox.dropped", Severity: registry.Warning,
			Text: fmt.Sprintf("%d messages were lost: the device's outbox was full.", lost),
		})
	}
	err := d.effects(ctx, in, &row)
	var bad *badBody
	if errors.As(err, &bad) {
		row.Kind, row.Receipt, row.Update = "malformed", nil, nil
		d.complain(ctx, in.device, in.kind, bad)
		err = nil
	}
	return row, err
}

// badBody is a body that can't be what its kind says.
type badBody struct {
	kind, severity string // of the event about it
	cause          error
}

func (b *badBody) Error() string { return b.cause.Error() }
func (b *badBody) Unwrap() error { return b.cause }

func malformed(cause error) *badBody {
	return &badBody{kind: "message.malformed", severity: registry.Warning, cause: cause}
}

// effects checks the body by its kind and adds what it means.
func (d *Dispatcher) effects(ctx context.Context, in incoming, row *registry.Message) error {
	switch in.kind {
	case wire.KindHealth:
		return checkHealth(in.up.Body)
	case wire.KindLinkTest:
		return checkLinkTest(in.up.Body)
	case wire.KindUpdate:
		update, err := decodeUpdate(in.up.Body)
		if err != nil {
			return err
		}
		row.Update = &update
	case wire.KindEvent:
		event, err := decodeEvent(in.up.Body)
		if err != nil {
			return err
		}
		line, err := entryOf(event)
		if err != nil {
			return err
		}
		line.Device, line.At = in.device, row.Received
		row.Timeline = append(row.Timeline, line)
	case wire.KindReceipt:
		record, err := d.verifyReceipt(ctx, in.device, in.up.Body)
		if err != nil {
			return err
		}
		record.Received, record.Receipt = row.Received, json.RawMessage(in.up.Body)
		row.Receipt = &record // the timeline has it as an event of the audit log
	}
	return nil
}
