package doctor

import (
	"fmt"
	"io"
	"strings"
	"unicode"
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
// beginning. Control characters of what was found don't reach the terminal.
func wrap(w io.Writer, head, text string) {
	line, indent, empty := head, strings.Repeat(" ", len(head)), true
	for word := range strings.FieldsSeq(printable(text)) {
		if !empty && len(line)+1+len(word) > columns {
			fmt.Fprintln(w, line)
			line, empty = indent, true
		}
		line, empty = line+" "+word, false
	}
	fmt.Fprintln(w, strings.TrimRight(line, " "))
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || unicode.IsSpace(r) {
			return r
		}
		return '?'
	}, s)
}
