package attest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// GRUBReference is what GRUB may run and read until it starts a kernel. A boot runs and
// reads some of it, in any order: what a menu or a saved state leaves out is no harm.
type GRUBReference struct {
	Commands []string   `json:"commands"` // as GRUB measures each: PCR 8
	Files    []GRUBFile `json:"files"`    // configuration, kernel, initrd and what else is read: PCR 9
}

// GRUBFile is a file that GRUB may read. One that has several states occurs with each.
type GRUBFile struct {
	Name   string `json:"name"` // for people: no PCR holds it
	Digest Digest `json:"digest"`
}

// compileGRUB fills in what checkGRUB looks up.
func (r *release) compileGRUB() error {
	if r.GRUB == nil {
		return nil
	}
	if len(r.GRUB.Commands) == 0 || len(r.GRUB.Files) == 0 {
		return errors.New("grub: commands and files must not be empty")
	}
	r.commands, r.files = make(map[Digest]bool), make(map[Digest]bool)
	for _, command := range r.GRUB.Commands {
		for _, digest := range grubDigests(command) {
			r.commands[digest] = true
		}
	}
	for _, f := range r.GRUB.Files {
		if f.Name == "" || f.Digest.IsZero() {
			return errors.New("grub: a file has a name and a digest")
		}
		r.files[f.Digest] = true
	}
	// What GRUB since 2.12 hands to the kernel's EFI stub, which measures it.
	for _, line := range r.CommandLines {
		r.commandLines[CommandLineDigest("BOOT_IMAGE="+line)] = line
	}
	return nil
}

// grubDigests are what GRUB extends for a text: older builds extend its zero too.
func grubDigests(text string) [2]Digest {
	return [2]Digest{sha256.Sum256([]byte(text)), sha256.Sum256(append([]byte(text), 0))}
}

// checkGRUB goes by digests alone: none covers what GRUB calls an event of PCR 8, or a
// file.
func checkGRUB(a *appraisal) (bool, string) {
	switch {
	case a.release == nil || a.release.GRUB == nil:
		return true, "GRUB: no command or file of it is listed"
	case a.log == nil || !a.holds[8] || !a.holds[9]:
		return false, "GRUB's commands and files are unknown: PCRs 8 and 9 are not accounted for"
	case len(a.facts.Files) == 0:
		return false, "GRUB: no file was measured into PCR 9"
	}
	var commands, files []string
	for _, e := range a.log.eventsOf(8) {
		if _, isLine := a.release.commandLines[e.Digest]; !isLine && !a.release.commands[e.Digest] {
			commands = append(commands, a.alteredCommand(e))
		}
	}
	for _, f := range a.facts.Files {
		if !a.release.files[f.Digest] {
			files = append(files, a.alteredFile(f))
		}
	}
	if len(commands)+len(files) > 0 {
		return false, strings.Join(append(firstOf(commands), firstOf(files)...), "; ") + "; not part of " + a.release.full()
	}
	return true, fmt.Sprintf("GRUB: all commands and %d files are part of %s", len(a.facts.Files), a.release.full())
}

// firstOf leaves of several texts the first, and says how many there are.
func firstOf(texts []string) []string {
	if len(texts) < 2 {
		return texts
	}
	return []string{fmt.Sprintf("%s (and %d more)", texts[0], len(texts)-1)}
}

// alteredCommand shows the words that are others than in the listed command of the same
// verb that is most like it.
func (a *appraisal) alteredCommand(e *LogEvent) string {
	where := fmt.Sprintf("PCR 8, event %d", e.Index)
	text, _, ok := grubText(e)
	if !ok {
		return fmt.Sprintf("GRUB command %s%s, %s, can't be read", e.Digest.short(), describedAs(clean(ipl(e))), where)
	}
	verb, _, _ := strings.Cut(text, " ")
	var alike []string
	for _, command := range a.release.GRUB.Commands {
		if first, _, _ := strings.Cut(command, " "); first == verb {
			alike = append(alike, command)
		}
	}
	if len(alike) == 0 {
		return fmt.Sprintf("GRUB command `%s`, %s", clean(text), where)
	}
	was, is := changedWords(nearest(alike, text), text)
	return fmt.Sprintf("GRUB command %s: `%s` became `%s`, %s", clean(verb), clean(was), clean(is), where)
}

func (a *appraisal) alteredFile(f Loaded) string {
	text := fmt.Sprintf("file %s%s, PCR 9, event %d", f.Digest.short(), describedAs(f.Described), f.Event)
	for _, listed := range a.release.GRUB.Files {
		if clean(listed.Name) == f.Described {
			return fmt.Sprintf("%s, where %s is listed", text, listed.Digest.short())
		}
	}
	return text
}

// diffGRUB tells what GRUB ran and read that it did not before.
func diffGRUB(before, after *Facts) (out []string) {
	var ran []string
	for _, command := range after.GRUB {
		if !slices.Contains(before.GRUB, command) && !slices.Contains(ran, command) {
			ran = append(ran, command)
		}
	}
	if len(ran) > 0 {
		out = append(out, fmt.Sprintf("GRUB ran what it did not run then, PCR 8: `%s`", clean(strings.Join(ran, "`, `"))))
	}
	for _, f := range after.Files {
		if !slices.ContainsFunc(before.Files, func(l Loaded) bool { return l.Digest == f.Digest }) &&
			!slices.ContainsFunc(before.LoadOptions, func(m Measurement) bool { return m.Digest == f.Digest }) { // retyped
			out = append(out, fmt.Sprintf("file %s%s is new, PCR 9, event %d", f.Digest.short(), describedAs(f.Described), f.Event))
		}
	}
	return out
}
