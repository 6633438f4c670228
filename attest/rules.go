package attest

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// rule is one thing that has to hold of a boot. Adding one is a file, or a
// function in one, and a line in all.go.
type rule struct {
	name   string
	effect Severity // unless the policy says otherwise
	holds  string   // what it demands
	// check returns whether it holds, and a sentence. Where it does not, the
	// sentence names PCR and event.
	check func(a *appraisal) (ok bool, text string)
}

// appraisal is what rules look at: a quote that is proven to be fresh and the
// device's, and logs that are only as true as the quote confirms.
type appraisal struct {
	expect   *Expect
	pcrs     map[int]Digest // quoted
	clock    Clock
	claims   Claims         // quoted
	log      *EventLog      // nil if there is none that can be read
	logError string         // why
	replay   map[int]Digest // of log
	holds    [24]bool       // by PCR: replay equals quote (for PCR 11, followed by boot phases)
	imaErr   error
	imaState *IMAState // up to the quote; nil if there is no list, or none that holds
	facts    Facts
	release  *release     // that the boot comes nearest to; nil if there is none
	firmware *FirmwareSet // that the boot equals; nil if none
}

// RuleNames lists the rules that a policy may name, in the order of judgement.
func RuleNames() []string {
	var names []string
	for _, r := range allRules() {
		names = append(names, r.name)
	}
	return append(names, ruleSoftwareKeys)
}

// judge runs rules; failed ones come first, the worst of them first of all.
func (a *appraisal) judge(rules []rule) (Grade, []RuleResult) {
	results := make([]RuleResult, 0, len(rules))
	worst := Trusted
	for _, r := range rules {
		ok, text := r.check(a)
		result := RuleResult{Rule: r.name, OK: ok, Effect: a.effect(r), Text: text}
		if !ok {
			if reason := a.excepted(r.name); reason != "" {
				result.Effect = Trusted
				result.Text += "; " + reason
			}
			worst = worse(worst, result.Effect)
		}
		results = append(results, result)
	}
	slices.SortStableFunc(results, func(x, y RuleResult) int {
		return cmp.Compare(rank(x), rank(y))
	})
	return worst, results
}

func (a *appraisal) effect(r rule) Grade {
	if severity, ok := a.expect.Policy.Rules[r.name]; ok {
		return severity.grade()
	}
	return r.effect.grade()
}

// excepted returns why the policy lets the rule fail on this device now.
func (a *appraisal) excepted(name string) string {
	for _, e := range a.expect.Policy.Exceptions {
		if e.Rule == name && (e.Device == "" || e.Device == a.expect.Device) && a.expect.Now.Before(e.Expires) {
			return fmt.Sprintf("excepted until %s: %s", e.Expires.UTC().Format(time.DateOnly), clean(e.Reason))
		}
	}
	return ""
}

func rank(r RuleResult) int {
	switch {
	case r.OK:
		return 3
	case r.Effect == Untrusted:
		return 0
	case r.Effect == Degraded:
		return 1
	}
	return 2
}

func worse(a, b Grade) Grade {
	if a == Untrusted || b == Untrusted {
		return Untrusted
	}
	if a == Degraded || b == Degraded {
		return Degraded
	}
	return Trusted
}
