package attest

import (
	"fmt"
	"time"
)

// Describe tells a policy in words, for whoever has to sign it: what each rule
// demands and costs, what is good, and what is excepted at a time.
func (p *Policy) Describe(now time.Time) []string {
	lines := []string{fmt.Sprintf("attestation policy of the fleet %s, issued %s", p.Fleet, p.Issued.UTC().Format(time.RFC3339))}
	for i := range p.Releases {
		r := &p.Releases[i]
		grub := ""
		if r.GRUB != nil {
			grub = fmt.Sprintf("%d commands and %d files of GRUB, ", len(r.GRUB.Commands), len(r.GRUB.Files))
		}
		lines = append(lines, fmt.Sprintf("good: release %s: %d boot applications, %d UKI sections, %scommand line %s",
			r.full(), len(r.BootApplications), len(r.UKISections), grub, quoteAll(r.CommandLines)))
	}
	for _, f := range p.Firmware {
		lines = append(lines, fmt.Sprintf("good: firmware %s of the model %s: %d measurements", f.Name, f.Model, len(f.Measurements)))
	}
	for _, k := range p.Keys {
		lines = append(lines, fmt.Sprintf("good: %d certificates in the Secure Boot variable %s", len(k.Certificates), k.Variable))
	}
	if p.IMA != nil {
		lines = append(lines, fmt.Sprintf("good: %d files of %d lists, and files signed by one of %d keys", p.Files(), len(p.IMA.Lists), len(p.IMA.Keys)))
	}
	for _, r := range append(allRules(), softwareRules()[0]) {
		lines = append(lines, p.describeRule(r))
	}
	for _, e := range p.Exceptions {
		who, when := "every gateway", "until "+e.Expires.UTC().Format(time.RFC3339)
		if e.Device != "" {
			who = e.Device
		}
		if !now.Before(e.Expires) {
			when = "no more, since " + e.Expires.UTC().Format(time.RFC3339)
		}
		lines = append(lines, fmt.Sprintf("excepted: %s may fail on %s %s: %s", e.Rule, who, when, clean(e.Reason)))
	}
	return lines
}

func (p *Policy) describeRule(r rule) string {
	effect, note := r.effect, ""
	if chosen, ok := p.Rules[r.name]; ok && chosen != effect {
		effect, note = chosen, fmt.Sprintf(" (by default: %s)", r.effect)
	}
	cost := map[Severity]string{Distrust: "distrusts", Degrade: "degrades", Info: "is only noted"}[effect]
	return fmt.Sprintf("rule %s: %s; else it %s%s", r.name, r.holds, cost, note)
}

func quoteAll(lines []string) string {
	text := ""
	for i, line := range lines {
		if i > 0 {
			text += " or "
		}
		text += "`" + clean(line) + "`"
	}
	return text
}
