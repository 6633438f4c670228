package wire

import "time"

// KindUpdate is published under up/: Up{Update}.
const KindUpdate Kind = "update"

// Outcomes of an update. While it is under way there is none.
const (
	UpdateInstalled  = "installed"   // committed: it stays
	UpdateRolledBack = "rolled-back" // it ran on trial and was given up: the release before runs
	UpdateFailed     = "failed"      // it never ran: it could not be fetched or written
	UpdateRefused    = "refused"     // it never ran: it is not for this device, or not signed as it must be
)

// Update tells what a device does about a release. Messages of one update have
// one ID; the last one has an Outcome, and is repeated until it was acknowledged.
type Update struct {
	Version  int       `json:"v"`                 // 1
	ID       string    `json:"id"`                // of this update, random
	State    string    `json:"state"`             // of the engine: fetching, installing, trying, ...
	Outcome  string    `json:"outcome,omitempty"` // see above
	Rule     string    `json:"rule,omitempty"`    // which rule refused or failed, a constant word
	Text     string    `json:"text,omitempty"`    // a sentence
	Product  string    `json:"product,omitempty"`
	Channel  string    `json:"channel,omitempty"`
	Release  string    `json:"release,omitempty"` // version that is or was to be installed
	From     string    `json:"from,omitempty"`    // version that ran before
	Epoch    uint64    `json:"epoch,omitempty"`   // security epoch of the release
	Pending  bool      `json:"pending,omitempty"` // committed on local gates, before the verdict that the release asks for
	Chunks   int       `json:"chunks,omitempty"`  // chunks fetched
	Fetched  int64     `json:"bytes_fetched"`     // bytes of all bodies read from the network for it
	Attempts int       `json:"attempts,omitempty"`
	Began    time.Time `json:"began"` // the device's clock: a claim
	Ended    time.Time `json:"ended,omitzero"`
}
