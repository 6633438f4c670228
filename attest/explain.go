package attest

import (
	"fmt"
	"strings"
)

// explain writes a verdict for operators: the summary, what failed, what changed
// since the last trusted boot, what would accept it, what held.
func (a *appraisal) explain(grade Grade, results []RuleResult, amendments []Amendment) []string {
	lines := []string{a.summary(grade, results)}
	for _, r := range results {
		if !r.OK {
			lines = append(lines, failedLine(r))
		}
	}
	if last := a.expect.Last; last != nil {
		for _, change := range Diff(last.Trusted, &a.facts) {
			lines = append(lines, "changed since the last trusted boot: "+change)
		}
	}
	for i := range amendments {
		lines = append(lines, "proposed: "+amendments[i].String())
	}
	for _, r := range results {
		if r.OK {
			lines = append(lines, "held: "+r.Text)
		}
	}
	return lines
}

func failedLine(r RuleResult) string {
	switch r.Effect {
	case Untrusted:
		return "failed, distrusts: " + r.Text
	case Degraded:
		return "failed, degrades: " + r.Text
	}
	return "noted: " + r.Text
}

// summary is one sentence: the grade with what was booted, or with the first
// failure that led to it.
func (a *appraisal) summary(grade Grade, results []RuleResult) string {
	if grade == Trusted {
		return fmt.Sprintf("trusted: release %s, firmware %s, Secure Boot %s", orUnknown(a.facts.Release), a.firmwareWord(), a.facts.SecureBoot)
	}
	var causes []string
	for _, r := range results {
		if !r.OK && r.Effect == grade {
			causes = append(causes, r.Text)
		}
	}
	text := string(grade) + ": " + causes[0]
	if more := len(causes) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}

func (a *appraisal) firmwareWord() string {
	if a.firmware != nil {
		return "approved"
	}
	return "not approved"
}

func orUnknown(text string) string {
	if text == "" {
		return "unknown"
	}
	return strings.TrimSpace(clean(text))
}
