package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// release is one section of a changelog.
type release struct {
	version string
	date    time.Time
	changes []string // the first sentence of each file
}

// readChangelog returns what changed, the newest first: changelog/unreleased is
// what is packaged, changelog/VERSION_DATE what came before.
func readChangelog(s source, dir string) ([]release, error) {
	folders, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read changelog: %w", err)
	}
	var all []release
	for _, folder := range folders {
		if !folder.IsDir() {
			continue
		}
		r := release{version: s.packageVersion(), date: s.time}
		if name := folder.Name(); name != "unreleased" {
			version, date, _ := strings.Cut(name, "_")
			if r.date, err = time.Parse(time.DateOnly, date); err != nil {
				return nil, fmt.Errorf("folder %s of the changelog is not called VERSION_YYYY-MM-DD", name)
			}
			r.version = version
		}
		if r.changes, err = readChanges(filepath.Join(dir, folder.Name())); err != nil {
			return nil, err
		}
		if len(r.changes) > 0 {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b release) int { return b.date.Compare(a.date) })
	if len(all) == 0 || all[0].version != s.packageVersion() {
		all = slices.Insert(all, 0, release{s.packageVersion(), s.time, []string{"New release."}})
	}
	return all, nil
}

func readChanges(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.md"))
	if err != nil {
		return nil, fmt.Errorf("read changelog: %w", err)
	}
	var changes []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read changelog: %w", err)
		}
		first, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
		changes = append(changes, first)
	}
	return changes, nil
}

// writeChangelogs writes changelog.gz as Debian reads it and changelog.json, of
// which nfpm makes rpm's.
func writeChangelogs(s source, program, stage string) error {
	releases, err := readChangelog(s, "changelog")
	if err != nil {
		return err
	}
	if err := writeGzip(filepath.Join(stage, "changelog.gz"), debianChangelog(program, releases)); err != nil {
		return err
	}
	type note struct {
		Note string `json:"note"`
	}
	type entry struct {
		Semver   string    `json:"semver"`
		Date     time.Time `json:"date"`
		Packager string    `json:"packager"`
		Changes  []note    `json:"changes"`
	}
	var entries []entry
	for _, r := range releases {
		e := entry{Semver: r.version + "-1", Date: r.date, Packager: maintainer}
		for _, change := range r.changes {
			e.Changes = append(e.Changes, note{change})
		}
		entries = append(entries, e)
	}
	raw, err := json.Marshal(entries)
	if err != nil {
		return fmt.Errorf("encode changelog: %w", err)
	}
	return os.WriteFile(filepath.Join(stage, "changelog.json"), raw, 0o600)
}

func debianChangelog(program string, releases []release) string {
	var b strings.Builder
	for i, r := range releases {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "%s (%s) stable; urgency=medium\n\n", program, r.version)
		for _, change := range r.changes {
			fmt.Fprintf(&b, "  * %s\n", wrap(change, 76, "    "))
		}
		fmt.Fprintf(&b, "\n -- %s  %s\n", maintainer, r.date.Format(time.RFC1123Z))
	}
	return b.String()
}

// wrap breaks text into lines of up to width, the later ones indented.
func wrap(text string, width int, indent string) string {
	var b strings.Builder
	line := 0
	for i, word := range regexp.MustCompile(`\s+`).Split(strings.TrimSpace(text), -1) {
		switch {
		case i > 0 && line+1+len(word) > width:
			b.WriteString("\n" + indent)
			line = len(indent)
		case i > 0:
			b.WriteString(" ")
			line++
		}
		b.WriteString(word)
		line += len(word)
	}
	return b.String()
}
