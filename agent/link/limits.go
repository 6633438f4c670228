package link

import (
	"fmt"
	"time"
)

// Limits of an Outbox.
type Limits struct {
	Bytes int64 // of all stored messages
	Count int   // messages
}

// DefaultLimits hold some days of a quiet gateway.
func DefaultLimits() Limits { return Limits{Bytes: 8 << 20, Count: 20_000} }

func (l Limits) check() error {
	if l.Bytes < 2*maxRecord || l.Count <= 0 {
		return fmt.Errorf("open outbox: limits must be at least %d bytes and 1 message", 2*maxRecord)
	}
	return nil
}

const (
	window         = 32               // messages on their way without an ack, count
	maxGroup       = 256              // outbox operations in one commit, count
	maxRecord      = 80 << 10         // one stored message, bytes: wire.MaxBody and what surrounds it
	handleQueue    = 16               // received messages of one kind that wait for Handle, count
	receiveAhead   = 64               // received messages that the broker may send before our acknowledgement, count
	keepAlive      = 60 * time.Second // MQTT keep-alive
	sessionExpiry  = time.Hour        // how long the broker keeps our session
	answerTimeout  = 30 * time.Second // for connecting, and for each answer of the broker
	stableAfter    = 30 * time.Second // a connection that lasted this long starts back-off anew
	resendFirst    = 5 * time.Second  // without an ack until messages are sent again; doubles
	resendMost     = time.Minute
	refusedEvery   = time.Minute // between two calls of OnRefused
	defaultBackoff = time.Minute
)
