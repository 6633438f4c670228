package broker

import (
	"errors"
	"time"

	"github.com/gatewarden/gatewarden/internal/wire"
)

// Limits of a Broker. All are required; DefaultLimits is a good start.
type Limits struct {
	Clients    int           // connections, count
	Handshakes int           // TLS handshakes and unanswered CONNECTs at a time, count
	Handshake  time.Duration // for the TLS handshake, and again for the CONNECT packet
	Write      time.Duration // for one write to a client that does not read
	KeepAlive  time.Duration // the longest a client may stay silent
	Session    time.Duration // the longest a session is kept without a connection
	Queue      int           // messages in flight for one client, count
	Message    int           // bytes of one packet
}

// DefaultLimits fit a small fleet on one machine.
func DefaultLimits() Limits {
	return Limits{
		Clients: 10_000, Handshakes: 256, Handshake: 10 * time.Second, Write: 5 * time.Second,
		KeepAlive: 5 * time.Minute, Session: time.Hour, Queue: 2048, Message: wire.MaxMessage + 4096,
	}
}

func (l Limits) check() error {
	if l.Clients <= 0 || l.Handshakes <= 0 || l.Handshake <= 0 || l.Write <= 0 || l.KeepAlive <= 0 ||
		l.Session <= 0 || l.Queue <= 0 || l.Queue > 65535 || l.Message <= 0 {
		return errors.New("make broker: every limit is required (see DefaultLimits)")
	}
	return nil
}
