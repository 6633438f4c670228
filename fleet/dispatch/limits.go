package dispatch

import "time"

const (
	keepAlive      = 30 * time.Second
	sessionExpiry  = time.Hour // how long the broker keeps messages for us
	answerTimeout  = 20 * time.Second
	defaultBackoff = 10 * time.Second
	stableAfter    = 30 * time.Second // a connection that lasted this long starts back-off anew

	ingestQueue  = 4096        // messages that wait for the next transaction, count
	maxGroup     = 256         // messages in one transaction, count
	callQueue    = 256         // hellos and evidence that wait for a worker, count
	workers      = 8           // goroutines that call OnHello and OnEvidence
	maxPending   = 64          // commands delivered at a time, count
	maxExpiry    = time.Hour   // how long the broker keeps a command
	maxStream    = 64          // name of a stream, bytes
	complainSpan = time.Minute // one event of a kind about a device's bad messages
	maxComplaint = 10_000      // of these remembered, count
)
