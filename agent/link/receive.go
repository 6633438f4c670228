package link

import (
	"context"
	"encoding/json"
	"sync"

	"github.com/gatewarden/gatewarden/internal/mqttconn"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// receive looks at one message for identity. What anybody could have put there
// is dropped here: kept messages, foreign topics, unsigned acks and verdicts.
func (l *Link) receive(identity string, m mqttconn.Message, acks *ackBox) {
	to, kind, ok := wire.ParseDown(m.Topic)
	log := l.cfg.Log.With("kind", string(kind))
	switch {
	case !ok || to != identity:
		log.Warn("message ignored: its topic is not ours")
		return
	case m.Retained:
		// A broker repeats it at each connection: a replay by construction.
		log.Warn("message ignored: it is a retained one")
		return
	}
	switch kind {
	case wire.KindAck:
		var ack wire.Ack
		if err := wire.OpenSigned(l.cfg.Keys(), m.Topic, m.Payload, &ack); err != nil {
			log.Warn("message ignored", "error", err)
			return
		}
		acks.put(ack)
	case wire.KindVerdict:
		var payload json.RawMessage
		if err := wire.OpenSigned(l.cfg.Keys(), m.Topic, m.Payload, &payload); err != nil {
			log.Warn("message ignored", "error", err)
			return
		}
		l.enqueue(kind, payload)
	case wire.KindChallenge, wire.KindCommand:
		l.enqueue(kind, m.Payload)
	default:
		log.Warn("message ignored: unknown kind")
	}
}

// enqueue never blocks. A command that finds the queue full is dropped: the
// fleet delivers what has no receipt again. Of the others the older one goes.
func (l *Link) enqueue(kind wire.Kind, payload []byte) {
	queue := l.inbox[kind]
	for {
		select {
		case queue <- payload:
			return
		default:
		}
		if kind == wire.KindCommand {
			l.cfg.Log.Warn("command dropped: too many are waiting")
			return
		}
		select {
		case <-queue:
		default:
		}
	}
}

func (l *Link) work(ctx context.Context, kind wire.Kind, queue <-chan []byte) {
	for {
		select {
		case <-ctx.Done():
			return
		case payload := <-queue:
			l.cfg.Handle(ctx, kind, payload)
		}
	}
}

// ackBox keeps the latest ack of each stream until somebody takes it, so that a
// burst costs one write to disk.
type ackBox struct {
	ready chan struct{}
	mu    sync.Mutex
	last  map[string]uint64
}

// maxStreams bounds the box; a device has two streams, rebuilt ones are rare.
const maxStreams = 16

func newAckBox() *ackBox { return &ackBox{ready: make(chan struct{}, 1), last: map[string]uint64{}} }

func (b *ackBox) put(ack wire.Ack) {
	b.mu.Lock()
	if _, known := b.last[ack.Stream]; known || len(b.last) < maxStreams {
		b.last[ack.Stream] = ack.UpTo
	}
	b.mu.Unlock()
	select {
	case b.ready <- struct{}{}:
	default:
	}
}

func (b *ackBox) take() map[string]uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := b.last
	b.last = map[string]uint64{}
	return taken
}
