package attest

import (
	"fmt"
	"slices"
)

// Release returns the reference values of the boot that l logged: whoever signs them
// calls that boot good. It takes the log at its word, and refuses what no release can
// list. GRUB's commands and files are listed where no UKI says what was started.
func (l *EventLog) Release(product, version string) (Release, error) {
	fail := func(err error) (Release, error) {
		return Release{}, fmt.Errorf("read reference values of event log: %w", err)
	}
	if _, err := l.Replay(); err != nil {
		return fail(err)
	}
	facts := extractFacts(l, func(pcr int) bool { return pcr != imaPCR })
	r := facts.release(product, version)
	compiled, err := compileRelease(&r)
	if err != nil {
		return fail(fmt.Errorf("the boot loader measured too little: %w", err))
	}
	if err := facts.listedBy(&compiled, l); err != nil {
		return fail(err)
	}
	return r, nil
}

// release lists what was measured.
func (f *Facts) release(product, version string) Release {
	r := Release{Product: product, Version: version}
	for _, app := range f.Applications {
		addNew(&r.BootApplications, app.Digest)
	}
	for _, line := range f.CommandLines {
		if line.Text != "" {
			addNew(&r.CommandLines, line.Text)
		}
	}
	if len(f.Sections) > 0 {
		r.UKISections = make(map[string]Digest)
	}
	for _, s := range f.Sections {
		r.UKISections[s.Name] = s.Digest
	}
	if len(f.GRUB) > 0 && len(f.Sections) == 0 {
		r.GRUB = new(GRUBReference)
		for _, command := range f.GRUB {
			addNew(&r.GRUB.Commands, command)
		}
		for _, file := range f.Files {
			addNew(&r.GRUB.Files, GRUBFile{Name: file.Described, Digest: file.Digest})
		}
	}
	return r
}

// listedBy names the first event that r leaves out because no release can list it.
func (f *Facts) listedBy(r *release, l *EventLog) error {
	for _, pcr := range []int{8, 11, 13} {
		if m := firstUnread(f.Unread, pcr); m != nil {
			return fmt.Errorf("event %d (PCR %d%s) is nothing that a release can list", m.Event, pcr, commaText(m.Text))
		}
	}
	for _, line := range f.CommandLines {
		if !r.knows(line) {
			return fmt.Errorf("event %d (PCR %d) holds no command line as text", line.Event, line.PCR)
		}
	}
	for _, e := range l.eventsOf(8) {
		if _, isLine := r.commandLines[e.Digest]; r.GRUB != nil && !isLine && !r.commands[e.Digest] {
			return fmt.Errorf("event %d (PCR 8) is a command of GRUB that is no text", e.Index)
		}
	}
	return nil
}

func addNew[T comparable](list *[]T, one T) {
	if !slices.Contains(*list, one) {
		*list = append(*list, one)
	}
}
