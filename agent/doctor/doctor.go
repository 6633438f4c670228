// Package doctor looks at a machine and says in plain words what it can do as a
// gateway, what it can't, and what to do about that.
//
// Its promise: one list (all.go) says what is looked at; nothing in the machine or
// its TPM is changed; what could not be looked at is said and never passes for
// well; and each finding comes with its meaning and the next step, all of which
// stand in docs/troubleshooting.md. It needs no agent, no configuration and no TPM.
package doctor

import (
	"context"
	"slices"
	"strings"
)

// Levels of a finding.
const (
	OK      = "ok"      // looked at, and well
	Advice  = "advice"  // it works; it could be better, or safer
	Unknown = "unknown" // could not be looked at
	Problem = "problem" // the abilities that it names do not work until it is solved
)

// Abilities: what a machine does as a gateway.
const (
	Enrol  = "enrol"  // prove what it is, and get a certificate
	Attest = "attest" // prove how it booted
	Seal   = "seal"   // keep secrets for boots that its owner signed
	Update = "update" // take in releases, with a way back
	Report = "report" // tell its health, and obey commands
)

// Abilities lists them in the order in which they are shown.
func Abilities() []string { return []string{Enrol, Attest, Seal, Update, Report} }

// Case is one thing that a check may find to be not well.
type Case struct {
	Name      string // of this case within its check: lower-case letters, digits and dashes
	Level     string // Advice or Problem
	Abilities []string
	Means     string // without the facts of this machine
	Do        string // the next step
}

// Check is one thing that is looked at. It has Look, or Ask if it is about what a
// chip answered.
type Check struct {
	Name  string // lower-case letters and dashes
	About string // what it looks at, for the documentation
	For   string // abilities that are unknown if it could not look: words, or "all"
	// Cases are paragraphs of three lines: name, level and abilities; what it means;
	// what to do. What is to be typed stands in double quotes.
	Cases string
	Look  func(ctx context.Context, m *Machine, n *notes)
	Ask   func(c *Chip, m *Machine, n *notes)
}

// Finding is what a check saw, with what that means.
type Finding struct {
	Check     string   `json:"check"`
	Case      string   `json:"case,omitempty"` // check and case, "tpm.absent"; none if it is ok or unknown
	Level     string   `json:"level"`
	Abilities []string `json:"abilities,omitempty"`
	Found     string   `json:"found"`
	Means     string   `json:"means,omitempty"`
	Do        string   `json:"do,omitempty"`
}

// Can says whether a machine has an ability.
type Can struct {
	Ability string   `json:"ability"`
	Answer  string   `json:"answer"`            // "yes", "no" or "unknown"
	Because []string `json:"because,omitempty"` // cases, or checks that could not look
}

// Diagnosis is all that was found.
type Diagnosis struct {
	Version   int       `json:"v"` // 1
	Root      bool      `json:"root"`
	Abilities []Can     `json:"abilities"`
	Findings  []Finding `json:"findings"`
}

// Run looks at everything.
func Run(ctx context.Context, m *Machine) Diagnosis {
	d := Diagnosis{Version: 1, Root: m.UID == 0}
	chip, err := m.chip(ctx)
	var skipped []string
	for _, check := range All() {
		n := &notes{check: check}
		switch {
		case check.Ask == nil:
			check.Look(ctx, m, n)
		case err == nil:
			check.Ask(chip, m, n)
		default:
			skipped = append(skipped, check.Name)
		}
		d.Findings = append(d.Findings, n.all()...)
	}
	if len(skipped) > 0 { // whether that is a problem says the check tpm
		n := &notes{check: &Check{Name: "tpm", For: "enrol attest seal"}}
		if absent(err) && m.without() == "software-keys" {
			n.check.For = "attest seal"
		}
		n.unseen("look at "+strings.Join(skipped, ", "), errNoChip)
		d.Findings = append(d.Findings, n.all()...)
	}
	for _, ability := range Abilities() {
		d.Abilities = append(d.Abilities, d.can(ability))
	}
	return d
}

// can is "no" if there is a problem, else "unknown" if there is something that
// could not be looked at.
func (d *Diagnosis) can(ability string) Can {
	c := Can{Ability: ability, Answer: "yes"}
	for _, level := range []string{Problem, Unknown} {
		for _, f := range d.Findings {
			if name := orElse(f.Case, f.Check); f.Level == level && slices.Contains(f.Abilities, ability) && !slices.Contains(c.Because, name) {
				c.Because = append(c.Because, name)
			}
		}
		if len(c.Because) > 0 {
			c.Answer = map[string]string{Problem: "no", Unknown: "unknown"}[level]
			break
		}
	}
	return c
}

// List reads the cases. It leaves out what it can't read; a test holds that this
// is nothing.
func (c *Check) List() (list []Case) {
	for part := range strings.SplitSeq(c.Cases, "\n\n") {
		head, rest, _ := strings.Cut(strings.TrimSpace(part), "\n")
		means, do, _ := strings.Cut(rest, "\n")
		name, level, _ := strings.Cut(head, " ")
		level, abilities, found := strings.Cut(level, " ")
		if found {
			list = append(list, Case{name, level, words(abilities), means, do})
		}
	}
	return list
}

// words splits a list of abilities.
func words(s string) []string {
	if s == "all" {
		return Abilities()
	}
	return strings.Fields(s)
}
