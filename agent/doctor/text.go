package doctor

import (
	"fmt"
	"io"
	"strings"
)

const columns = 80 // of a serial console

// Print writes a diagnosis for a person at a console of 80 columns that can't scroll
// back: what is well comes first, what matters most comes last.
func Print(w io.Writer, d Diagnosis) {
	for _, level := range []string{OK, Unknown, Advice, Problem} {
		for _, f := range d.Findings {
			if f.Level == level {
				printFinding(w, f)
			}
		}
	}
	fmt.Fprintln(w, "\nCan this machine ...")
	for _, c := range d.Abilities {
		wrap(w, fmt.Sprintf("  %-7s %-8s", c.Ability, c.Answer), strings.Join(c.Because, ", "))
	}
	if !d.Root {
		fmt.Fprintln(w, "Some things only root can look at.")
	}
}

func printFinding(w io.Writer, f Finding) {
	if f.Level == OK {
		wrap(w, fmt.Sprintf("ok      %-14s", f.Check), f.Found)
		return
	}
	fmt.Fprintln(w)
	wrap(w, fmt.Sprintf("%-8s", strings.ToUpper(f.Level)), fmt.Sprintf("%s (%s)", orElse(f.Case, f.Check), strings.Join(f.Abilities, ", ")))
	for _, part := range [][2]string{{"found:", f.Found}, {"means:", f.Means}, {"do:", f.Do}} {
		if part[1] != "" {
			wrap(w, fmt.Sprintf("  %-6s", part[0]), part[1])
		}
	}
}

// wrap writes text behind a head; what does not fit into a line goes below its
// beginning. A console may know nothing but ASCII, and what was found may hold
// control characters: other letters are shown as question marks.
func wrap(w io.Writer, head, text string) {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, strings.ReplaceAll(text, "\n", " "))
	line, indent := head, strings.Repeat(" ", len(head))
	for word := range strings.FieldsSeq(text) {
		for len(line)+1+len(word) > columns {
			room := 0
			if len(line) == len(indent) { // longer than a line
				room = columns - len(line) - 1
			}
			fmt.Fprintln(w, strings.TrimRight(line+" "+word[:room], " "))
			line, word = indent, word[room:]
		}
		line += " " + word
	}
	fmt.Fprintln(w, strings.TrimRight(line, " "))
}
