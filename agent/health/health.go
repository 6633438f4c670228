// Package health checks the machine that the agent runs on.
//
// Its promise: one list (all.go) says what is checked; a check that hangs, fails
// or panics costs only its own finding; and an idle machine is woken rarely,
// because checks that are due at about the same time run together.
package health

import (
	"context"
	"time"

	"github.com/gatewarden/gatewarden/internal/bound"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// Status of a finding, and grade of a report.
const (
	OK       = "ok"
	Unknown  = "unknown"
	Warning  = "warning"
	Critical = "critical"
)

// Check is one thing that is looked at.
type Check struct {
	Name  string        // as it appears in wire.Finding: lower-case letters and digits
	Every time.Duration // between two runs; a Tracker rounds it to its Grid
	// Run returns one of the four statuses and a sentence. It should end when ctx
	// does; where it does not, its finding becomes unknown and it is not started
	// again before it returned. A summary should not change with every run (say
	// "37 % free", not bytes): it is part of the posture hash.
	Run func(ctx context.Context) (status, summary string)
}

// Report is the state of all checks.
type Report struct {
	Grade    string         // the worst status of Findings; see Worse
	Findings []wire.Finding // by name of the check
	Posture  string         // SHA-256 (hex) over check, status and summary of each finding
}

// Worse returns the worse of two statuses. From best to worst: ok, unknown,
// warning, critical. Not to know is worse than to know that all is well, and
// better than to know that something is wrong.
func Worse(a, b string) string {
	if severity(b) > severity(a) {
		return b
	}
	return a
}

func severity(status string) int {
	switch status {
	case OK:
		return 0
	case Unknown:
		return 1
	case Warning:
		return 2
	case Critical:
		return 3
	}
	return 1 // no known status: we don't know
}

// reportOf computes grade and posture of findings, which are sorted by name.
func reportOf(findings []wire.Finding) Report {
	grade := OK
	for _, f := range findings {
		grade = Worse(grade, f.Status)
	}
	return Report{Grade: grade, Findings: findings, Posture: bound.Posture(findings)}
}
