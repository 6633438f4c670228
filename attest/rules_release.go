package attest

import (
	"fmt"
	"strings"
)

// findRelease chooses the release that the boot comes nearest to, by images first:
// each rule then compares with that one, so that a boot is never pieced together
// from several releases.
func (a *appraisal) findRelease() *release {
	var best *release
	most := -1
	for i := range a.expect.Policy.releases {
		r := &a.expect.Policy.releases[i]
		score := 0
		for _, app := range a.facts.Applications {
			if r.applications[app.Digest] {
				score += 100
			}
		}
		for _, s := range a.facts.Sections {
			if r.UKISections[s.Name] == s.Digest {
				score += 100
			}
		}
		for _, f := range a.facts.Files {
			if r.files[f.Digest] {
				score += 100
			}
		}
		for _, line := range a.facts.CommandLines {
			if r.knows(line) {
				score++
			}
		}
		if score > most {
			best, most = r, score
		}
	}
	return best
}

// knows reports whether the release lists that command line.
func (r *release) knows(line CommandLine) bool {
	_, ok := r.commandLines[line.Digest]
	return ok
}

func checkBootApplication(a *appraisal) (bool, string) {
	switch {
	case a.log == nil || !a.holds[4]:
		return false, "boot applications are unknown: PCR 4 is not accounted for"
	case a.release == nil:
		return false, "boot applications: the policy has no release"
	case len(a.facts.Applications) == 0:
		return false, "boot applications: none was measured into PCR 4"
	}
	for _, app := range a.facts.Applications {
		if a.release.applications[app.Digest] {
			continue
		}
		text := fmt.Sprintf("boot application %s%s, PCR 4, event %d; not part of %s",
			app.Digest.short(), describedAs(app.Described), app.Event, a.release.full())
		if others := a.releasesWith(app.Digest); others != "" {
			text += " but of " + others
		}
		return false, text
	}
	var described string
	for _, app := range a.facts.Applications {
		if app.Described != "" && described != "" {
			described += ", "
		}
		described += app.Described
	}
	return true, fmt.Sprintf("all %d boot applications are part of %s%s", len(a.facts.Applications), a.release.full(), describedAs(described))
}

func (a *appraisal) releasesWith(application Digest) string {
	var names []string
	for i := range a.expect.Policy.releases {
		if r := &a.expect.Policy.releases[i]; r.applications[application] {
			names = append(names, r.full())
		}
	}
	return strings.Join(names, ", ")
}

func describedAs(text string) string {
	if text == "" {
		return ""
	}
	return " (described as " + text + ")"
}

func checkCommandLine(a *appraisal) (bool, string) {
	switch {
	case a.log == nil || !a.holds[12] || !a.holds[8] || !a.holds[9]:
		return false, "kernel command line is unknown: PCRs 8, 9 and 12 are not accounted for"
	case a.release == nil:
		return false, "kernel command line: the policy has no release"
	case len(a.facts.CommandLines) == 0:
		return false, "kernel command line: none was measured into PCR 12 or, by GRUB, 8"
	}
	for _, line := range a.facts.CommandLines {
		if !a.release.knows(line) {
			return false, a.alteredLine(line)
		}
	}
	if m := firstUnread(a.facts.Unread, 8); m != nil {
		return false, fmt.Sprintf("boot loader command %s%s, PCR 8, event %d, can't be read", m.Digest.short(), describedAs(m.Text), m.Event)
	}
	for _, m := range a.facts.LoadOptions {
		if _, ok := a.release.commandLines[m.Digest]; !ok {
			return false, fmt.Sprintf("kernel command line: the kernel was started with another (%s), PCR 9, event %d; not part of %s",
				m.Digest.short(), m.Event, a.release.full())
		}
	}
	return true, fmt.Sprintf("kernel command line `%s` is part of %s", clean(a.facts.CommandLines[0].Text), a.release.full())
}

// alteredLine says which words are not what they were, or what a release has.
func (a *appraisal) alteredLine(line CommandLine) string {
	where := fmt.Sprintf("PCR %d, event %d; not part of any release", line.PCR, line.Event)
	for i := range a.expect.Policy.releases {
		if r := &a.expect.Policy.releases[i]; r.knows(line) {
			where = fmt.Sprintf("PCR %d, event %d; part of %s, but the images are those of %s", line.PCR, line.Event, r.full(), a.release.full())
		}
	}
	if line.Text == "" {
		return fmt.Sprintf("kernel command line: %s%s was measured beside it, %s", line.Digest.short(), describedAs(line.Described), where)
	}
	before := nearest(a.release.CommandLines, line.Text)
	if last := a.expect.Last; last != nil && last.Trusted != nil && len(last.Trusted.CommandLines) > 0 {
		if text := last.Trusted.CommandLines[0].Text; a.release.commandLines[CommandLineDigest(text)] != "" {
			before = text
		}
	}
	was, is := changedWords(before, line.Text)
	return fmt.Sprintf("kernel command line: `%s` became `%s`, %s", clean(was), clean(is), where)
}

func checkSections(a *appraisal) (bool, string) {
	switch {
	case a.log == nil || !a.holds[11]:
		return false, "UKI sections are unknown: PCR 11 is not accounted for"
	case a.release == nil:
		return false, "UKI sections: the policy has no release"
	}
	seen := make(map[string]bool)
	for _, s := range a.facts.Sections {
		want, listed := a.release.UKISections[s.Name]
		switch {
		case !listed:
			return false, fmt.Sprintf("UKI section %s, PCR 11, event %d; %s has no such section", s.Name, s.Event, a.release.full())
		case seen[s.Name]:
			return false, fmt.Sprintf("UKI section %s was measured twice, PCR 11, event %d", s.Name, s.Event)
		case want != s.Digest:
			return false, fmt.Sprintf("UKI section %s is %s, PCR 11, event %d; in %s it is %s", s.Name, s.Digest.short(), s.Event, a.release.full(), want.short())
		}
		seen[s.Name] = true
	}
	for _, name := range sectionOrder() {
		if _, listed := a.release.UKISections[name]; listed && !seen[name] {
			return false, fmt.Sprintf("UKI section %s of %s was not measured into PCR 11", name, a.release.full())
		}
	}
	if m := firstUnread(a.facts.Unread, 11); m != nil {
		return false, fmt.Sprintf("PCR 11 has an event that is no UKI section: event %d (%s)%s", m.Event, m.Type, describedAs(m.Text))
	}
	if len(seen) == 0 {
		return true, fmt.Sprintf("no UKI section was measured, and %s has none", a.release.full())
	}
	return true, fmt.Sprintf("UKI sections are those of %s", a.release.full())
}

func checkExtensions(a *appraisal) (bool, string) {
	if a.log == nil || !a.holds[13] {
		return false, "system extensions are unknown: PCR 13 is not accounted for"
	}
	if m := firstUnread(a.facts.Unread, 13); m != nil {
		return false, fmt.Sprintf("system extension %s%s, PCR 13, event %d; no release has any", m.Digest.short(), describedAs(m.Text), m.Event)
	}
	return true, "no system extension was measured"
}

func firstUnread(unread []Measurement, pcr int) *Measurement {
	for i := range unread {
		if unread[i].PCR == pcr {
			return &unread[i]
		}
	}
	return nil
}
