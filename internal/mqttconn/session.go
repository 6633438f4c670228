package mqttconn

import (
	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho/session/state"
)

// session is the library's session state for one connection only. Nothing in it
// outlives the connection: the sender repeats what was not taken in, and an old
// in-flight message would go out under a topic that may no longer be ours.
type session struct {
	*state.State
	conn *Conn
}

// PacketReceived looks at refusals, which the library drops for messages that
// nobody waits for.
func (s *session) PacketReceived(p *packets.ControlPacket, out chan<- *packets.Publish) error {
	if ack, ok := p.Content.(*packets.Puback); ok && ack.ReasonCode >= packets.PubackUnspecifiedError && s.conn.opts.OnRejected != nil {
		s.conn.opts.OnRejected(ack.ReasonCode, codeText(ack.ReasonCode))
	}
	return s.State.PacketReceived(p, out)
}

// ConnectionLost keeps the broker's reason, if it gave one.
func (s *session) ConnectionLost(d *packets.Disconnect) error {
	if d != nil {
		s.conn.ended(&Refused{Code: d.ReasonCode, Reason: codeText(d.ReasonCode)})
	}
	return s.State.ConnectionLost(d)
}
