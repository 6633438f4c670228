package broker

import (
	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// In MQTT client and server number their packets independently (MQTT 5, 2.2.1).
// The library keeps both in one table, so a client's PUBLISH n deletes the
// server's unanswered PUBLISH n, a SUBSCRIBE n is refused, and the answer to the
// server's n then returns no send quota: after enough of these the client gets
// nothing any more. The two hooks here take the server's packet out of the way
// while the client's is processed. They run in the client's own reading loop.

// OnPacketRead comes before a packet is processed.
func (r *rules) OnPacketRead(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	table := cl.State.Inflight
	switch pk.FixedHeader.Type {
	case packets.Publish, packets.Subscribe, packets.Unsubscribe:
		if pk.FixedHeader.Type == packets.Publish && pk.FixedHeader.Qos == 0 {
			break
		}
		if ours, ok := table.Get(pk.PacketID); ok && ours.FixedHeader.Type == packets.Publish {
			r.mu.Lock()
			r.clashes[cl] = ours
			r.mu.Unlock()
			table.Delete(pk.PacketID)
		}
	case packets.Puback:
		// Sent from the overflow, where it is deleted at once but its quota taken.
		if _, ok := table.Get(pk.PacketID); !ok {
			table.IncreaseSendQuota()
		}
	}
	return pk, nil
}

// OnPacketProcessed comes after it.
func (r *rules) OnPacketProcessed(cl *mqtt.Client, pk packets.Packet, _ error) {
	r.mu.Lock()
	ours, ok := r.clashes[cl]
	delete(r.clashes, cl)
	r.mu.Unlock()
	if !ok {
		return
	}
	if _, taken := cl.State.Inflight.Get(ours.PacketID); !taken {
		cl.State.Inflight.Set(ours)
	}
}
