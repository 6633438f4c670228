package device

import "time"

// Enrolment is the one path that answers anybody. It costs the server two
// signature checks and an encryption, and leaves a ticket for TicketLife.
const (
	enrollBurst = 30              // requests that one source may make at once
	enrollEvery = 2 * time.Second // one more after each
	maxSources  = 10_000          // sources remembered; the others share one allowance
)

// DefaultMaxPending is Config.MaxPending where that is 0.
const DefaultMaxPending = 1000
