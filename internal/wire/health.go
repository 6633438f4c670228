package wire

import "time"

// Health is a device's report on itself.
type Health struct {
	Version   int       `json:"v"` // 1
	Software  string    `json:"software"`
	Slot      string    `json:"slot,omitempty"` // running slot, where there are slots
	Grade     string    `json:"grade"`          // the worst of the findings: ok, warning, critical, unknown
	Findings  []Finding `json:"findings"`
	TimeTrust bool      `json:"time_trusted"`        // this boot has a trustworthy clock
	Challenge []byte    `json:"challenge,omitempty"` // for commands while it has not
	Posture   string    `json:"posture"`             // SHA-256 (hex) over the findings; the next quote's claims carry it
	Dropped   uint64    `json:"dropped"`             // messages that a full outbox lost since the agent started
	Verdict   string    `json:"verdict,omitempty"`   // summary of the last verdict, in the fleet's words
}

// Finding is the outcome of one health check.
type Finding struct {
	Check   string    `json:"check"`  // name in agent/health/all.go
	Status  string    `json:"status"` // ok, warning, critical, unknown
	Summary string    `json:"summary"`
	Since   time.Time `json:"since"` // when Status became what it is
}

// Event is one entry of the audit log that an operator should see.
type Event struct {
	Version int    `json:"v"`
	Name    string `json:"name"`            // "command.refused", "identity.renewed", ...
	Text    string `json:"text"`            // a sentence
	Index   uint64 `json:"index"`           // position in the device's audit log
	Head    string `json:"head"`            // hash of the audit log including it (hex)
	Entry   []byte `json:"entry,omitempty"` // its line in the audit log: what Head is over
}

// LinkTest is one of a numbered run of test messages.
type LinkTest struct {
	Run   string `json:"run"` // id of the command that asked for it
	Index int    `json:"index"`
	Of    int    `json:"of"`
}
