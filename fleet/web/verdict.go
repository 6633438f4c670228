package web

import (
	"encoding/json"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/registry"
)

// verdictView is the large panel and the reasons below it.
type verdictView struct {
	Mark     mark
	Said     prose  // the sentence
	Rule     string // which rule it is, if it is the only one that failed
	Hint     prose  // what an operator does next, if anything
	HintMark mark
	Gate     string
	At       moment // zero before the first verdict
	Failed   []reason
	Changed  []prose
	Proposed []prose  // decisions that would accept it
	Noted    []reason // did not hold, and costs nothing
	Held     []reason
}

type reason struct {
	Rule string
	Text prose
	Mark mark
}

// Reasons tells whether there is more than the sentence.
func (v verdictView) Reasons() bool {
	return len(v.Failed)+len(v.Noted)+len(v.Changed)+len(v.Proposed)+len(v.Held) > 0
}

func viewVerdict(d registry.Device, last registry.Verdict, now time.Time) verdictView {
	v := verdictView{Mark: gradeMark(d.Grade), HintMark: severityMark(registry.Warning)}
	if !last.At.IsZero() {
		v.At, v.Gate = at(last.At, now), gateWords(last.Gate)
		v.reasons(last)
		if len(last.Explanation) > 0 {
			v.Said = proseOf(sentence(last.Explanation[0], last.Grade))
			v.Rule, v.Failed = onlyRule(last.Explanation[0], v.Failed)
		}
	}
	switch {
	case registry.Out(d.State):
		v.Mark, v.Gate = stateMark(d.State), ""
		v.Said, v.Rule = proseOf("This gateway was taken out of the fleet. It gets no certificate and can't connect."), ""
	case d.State == registry.Pending:
		v.Mark, v.Said, v.Rule = mark{toneWarn, "wait", "Waiting for approval"}, proseOf(pendingWords(d)), ""
		v.Hint = proseOf("An operator lets it in with `gatewarden-fleet devices approve " + d.ID + acceptFlag(d) + "`.")
	case v.At.Known && v.Said == nil:
		v.Said = proseOf("The verifier gave no reason.")
	case !v.At.Known:
		v.Said = proseOf("This gateway has not proven yet how it booted.")
	case silent(d, now):
		v.Hint = proseOf("Nothing was heard from it for " + span(now.Sub(d.LastSeen)) + ": the verdict is as old.")
	}
	return v
}

// acceptFlag is what an operator has to add to approve d knowingly.
func acceptFlag(d registry.Device) string {
	if d.SoftwareKeys {
		return " --accept-software"
	}
	return ""
}

func pendingWords(d registry.Device) string {
	if d.SoftwareKeys {
		return "It has no TPM: its keys are software keys, and nothing proves what it booted. Approve it only if you know this machine and can live with that."
	}
	if d.Genuine() {
		return "Its TPM is genuine: a known maker vouches for it and the chip holds the keys. Approval freezes the firmware values that it showed."
	}
	return "Its chip holds the keys, but no known maker vouches for the chip. Approve it only if you know this machine."
}

// sentence drops the grade in front of a summary, which stands above it in
// large letters, and gives it a capital letter.
func sentence(summary, grade string) string {
	text := plain(summary)
	if rest, ok := strings.CutPrefix(text, grade+":"); ok {
		text = strings.TrimSpace(rest)
	}
	first, size := utf8.DecodeRuneInString(text)
	if word, _, _ := strings.Cut(text, " "); strings.ToLower(word) != word || strings.ContainsAny(word, "`-/._") {
		return text // a name, not a word
	}
	return string(unicode.ToUpper(first)) + text[size:]
}

// onlyRule keeps a single failure from being told twice, in the sentence and
// right below it.
func onlyRule(summary string, failed []reason) (string, []reason) {
	if len(failed) != 1 {
		return "", failed
	}
	var text strings.Builder
	for _, r := range failed[0].Text {
		text.WriteString(r.Text)
	}
	if !strings.Contains(strings.ReplaceAll(plain(summary), "`", ""), text.String()) {
		return "", failed
	}
	return failed[0].Rule, nil
}

// Beginnings of the lines of attest.Result.Explanation that tell what changed, and
// what would accept it; the others repeat rules.
const (
	changedPrefix  = "changed since the last trusted boot: "
	proposedPrefix = "proposed: "
)

// reasons sorts what the verifier said: rules that failed, those whose failure
// costs nothing, what changed since the last trusted boot, what would accept it,
// rules that held.
func (v *verdictView) reasons(last registry.Verdict) {
	var rules []attest.RuleResult
	if json.Unmarshal(last.Rules, &rules) != nil {
		rules = nil // a record of another release: its summary still says the worst
	}
	for _, r := range rules[:min(len(rules), ruleRows)] {
		one := reason{Rule: plain(r.Rule), Text: proseOf(r.Text), Mark: gradeMark(string(r.Effect))}
		switch {
		case r.OK:
			v.Held = append(v.Held, one)
		case r.Effect == attest.Trusted:
			v.Noted = append(v.Noted, one)
		default:
			v.Failed = append(v.Failed, one)
		}
	}
	for _, line := range last.Explanation {
		if change, ok := strings.CutPrefix(line, changedPrefix); ok && len(v.Changed) < ruleRows {
			v.Changed = append(v.Changed, proseOf(change))
		}
		if decision, ok := strings.CutPrefix(line, proposedPrefix); ok && len(v.Proposed) < ruleRows {
			v.Proposed = append(v.Proposed, proseOf(decision))
		}
	}
}
