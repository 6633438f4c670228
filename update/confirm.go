package update

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/update/release"
)

// Condition is how well the device does, as it sees it itself.
type Condition struct {
	// Checks is the status of each health check by name: ok, unknown, warning or
	// critical. One that has not run since the agent started is absent.
	Checks  map[string]string `json:"checks"`
	Link    bool              `json:"link"`    // connected to the fleet
	Verdict string            `json:"verdict"` // grade of a verdict of this boot: trusted, degraded, untrusted; empty: none yet
}

// whole says that there is nothing to wait for.
func (c Condition) whole() bool { return len(c.Checks) > 0 && c.Link && c.Verdict != "" }

// judgement is what compare found: passed, or a rule that failed, or neither yet.
type judgement struct {
	Passed  bool
	Pending bool // passed without the verdict that the release asks for
	Rule    string
	Text    string
}

// compare holds a device on trial against what it was before. since is how long
// the trial has lasted. Each local check must be as good as before, always. Link
// and verdict count only if both were good before, so that a fleet that is not
// there has no say; the grade is compared with the one before, not with trusted.
func compare(c release.Confirm, before *Condition, now Condition, since time.Duration) judgement {
	if before == nil {
		before = &Condition{}
	}
	timeout := time.Duration(c.Timeout) * time.Second
	var open []string
	fail := func(rule, what string, within time.Duration) *judgement {
		if since >= min(within, timeout) {
			return &judgement{Rule: rule, Text: fmt.Sprintf("After %d seconds on trial %s.", int(since.Seconds()), what)}
		}
		open = append(open, rule)
		return nil
	}
	for _, criterion := range c.Checks {
		if what := worse(criterion.Check, before.Checks, now.Checks); what != "" {
			if j := fail(criterion.Check, what, time.Duration(criterion.Within)*time.Second); j != nil {
				return *j
			}
		}
	}
	counts := before.Link && rank(before.Verdict) > 0
	if c.Link && counts && !now.Link {
		if j := fail(ruleLink, "the fleet is not connected, as it was before", timeout); j != nil {
			return *j
		}
	}
	if c.Verdict && counts && (now.Verdict == "" || rank(now.Verdict) < rank(before.Verdict)) {
		what := fmt.Sprintf("the verdict is %s, it was %s before", orNone(now.Verdict), before.Verdict)
		if j := fail(ruleVerdict, what, timeout); j != nil {
			return *j
		}
	}
	return judgement{Passed: len(open) == 0, Pending: len(open) == 0 && c.Verdict && !counts}
}

// worse says what is worse with a check than before, empty if nothing is. One that
// was unknown before must not be bad now; one that did not exist must be ok.
func worse(check string, before, now map[string]string) string {
	is, ok := now[check]
	if !ok {
		return fmt.Sprintf("check %s has not run", check)
	}
	was, ok := before[check]
	if !ok {
		was = statuses()[0]
	}
	if severity(is) > severity(was) {
		return fmt.Sprintf("check %s is %s, it was %s before", check, is, was)
	}
	return ""
}

// statuses are those of health checks, from best to worst.
func statuses() []string { return []string{"ok", "unknown", "warning", "critical"} }

func severity(status string) int {
	if i := slices.Index(statuses(), status); i >= 0 {
		return i
	}
	return len(statuses())
}

// rank of a grade: the higher the better; 0 is no good one.
func rank(grade string) int {
	return max(0, slices.Index([]string{"untrusted", "degraded", "trusted"}, grade))
}

func orNone(grade string) string {
	if strings.TrimSpace(grade) == "" {
		return "none yet"
	}
	return grade
}
