package doctor

import (
	"errors"
	"fmt"
	"io/fs"
)

// notes are what one check saw.
type notes struct {
	check *Check
	fine  string // what is well; said only if nothing else is
	list  []Finding
}

// ok says what is well. It does not count beside anything that is not.
func (n *notes) ok(format string, args ...any) { n.fine = fmt.Sprintf(format, args...) }

// is notes a case of the check, with the facts.
func (n *notes) is(name, format string, args ...any) {
	f := Finding{Check: n.check.Name, Found: fmt.Sprintf(format, args...)}
	for _, c := range n.check.List() {
		if c.Name == name {
			f.Case, f.Level, f.Abilities, f.Means, f.Do = f.Check+"."+name, c.Level, c.Abilities, c.Means, c.Do
			n.list = append(n.list, f)
			return
		}
	}
	n.unseen("judge this", fmt.Errorf("%s: the check has no case %s, which is a bug", f.Found, name))
}

// unseen notes what could not be looked at, and why.
func (n *notes) unseen(what string, err error) {
	do := "Find out why it can't be read."
	switch {
	case errors.Is(err, errNoChip):
		do = "Solve what is said of the TPM first."
	case errors.Is(err, fs.ErrPermission):
		do = "Run gatewarden doctor as root."
	}
	n.list = append(n.list, Finding{
		Check: n.check.Name, Level: Unknown, Abilities: words(n.check.For), Found: fmt.Sprintf("can't %s: %v", what, err),
		Means: "It counts as not working until it was looked at.", Do: do,
	})
}

// all are the findings, at least one unless the check had nothing to say.
func (n *notes) all() []Finding {
	if n.list == nil && n.fine != "" {
		return []Finding{{Check: n.check.Name, Level: OK, Found: n.fine}}
	}
	return n.list
}
