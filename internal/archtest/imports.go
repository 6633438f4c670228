package archtest

import (
	"fmt"
	"slices"
	"strings"
)

// Rule says what packages below From may import. The rule with the longest
// matching From holds; a package that none matches breaks the law.
type Rule struct {
	From string
	// Own lists the folders of this module whose packages may be imported, with
	// all below them; "*" stands for any.
	Own []string
	// Never takes folders out of Own again.
	Never []string
	// Std lists packages from elsewhere that may not be imported.
	Std []string
}

// Table is the import table of the design, section 3, and what else the choice
// of dependencies decided.
func Table() []Rule {
	const exec = "os/exec"
	// Executing a template switches off the linker's removal of dead methods.
	device := []string{exec, "text/template", "html/template", "log"}
	return []Rule{
		{From: "cmd", Own: []string{"*"}, Std: []string{"log"}},
		{From: "cmd/gatewarden", Own: []string{"*"}, Never: []string{"fleet", "tpm/tpmtest", "cmd/gatewarden-fleet"}, Std: device},
		{From: "e2e", Own: []string{"*"}},
		{From: "packaging"}, // tests only
		{From: "agent", Own: []string{"agent", "attest", "tpm", "update", "helper/client", "internal"}, Never: []string{"update/boot", "tpm/tpmtest"}, Std: device},
		{From: "helper", Own: []string{"helper", "update/tuf", "update/release", "update/chunk", "update/boot", "tpm", "internal"}, Never: []string{"tpm/tpmtest"}, Std: device[1:]},
		{From: "fleet", Own: []string{"fleet", "attest", "update/tuf", "update/release", "update/chunk", "internal"}, Std: []string{exec, "log"}},
		{From: "update", Own: []string{"update", "internal"}, Std: device},
		{From: "tpm", Own: []string{"tpm", "internal"}, Never: []string{"tpm/tpmtest"}, Std: device},
		{From: "tpm/tpmtest", Own: []string{"tpm", "internal"}, Std: []string{"log"}},
		{From: "internal", Own: []string{"internal"}, Never: buildTools(), Std: device},
		{From: "attest", Std: append(device, "os", "net", "net/http")},
		// Programs of the build, not of the product.
		{From: "internal/check", Own: []string{"internal"}, Std: []string{"log"}},
		{From: "internal/bench", Own: []string{"*"}, Std: []string{"log"}},
		{From: "internal/archtest", Own: []string{}, Std: device},
		// A program for the public TUF conformance suite, which fakes the `date` command.
		{From: "internal/tufclient", Own: []string{"internal", "update/tuf"}, Std: []string{"log"}},
	}
}

func buildTools() []string {
	return []string{"internal/check", "internal/bench", "internal/archtest", "internal/tufclient"}
}

// Imports checks every import of what ships against rules; test files are free.
// It returns one sentence for each fault, with its place.
func Imports(t *Tree, rules []Rule) []string {
	var faults []string
	for _, p := range t.Packages {
		rule := ruleFor(rules, p.Path)
		if rule == nil {
			faults = append(faults, p.Path+": no import rule covers this folder; the table is in internal/archtest/imports.go")
			continue
		}
		for _, f := range p.Files {
			if f.Test {
				continue
			}
			for _, i := range f.Imports {
				if why := rule.refuses(t, p.Path, i.Path); why != "" {
					faults = append(faults, fmt.Sprintf("%s:%d: %s", f.Path, i.Line, why))
				}
			}
		}
	}
	return faults
}

func ruleFor(rules []Rule, folder string) *Rule {
	var best *Rule
	for i := range rules {
		if below(folder, rules[i].From) && (best == nil || len(rules[i].From) > len(best.From)) {
			best = &rules[i]
		}
	}
	return best
}

// below says whether folder is base or lies in it.
func below(folder, base string) bool {
	return base == "*" || folder == base || strings.HasPrefix(folder, base+"/")
}

func (r *Rule) refuses(t *Tree, from, imported string) string {
	folder, own := t.own(imported)
	if !own {
		if slices.Contains(r.Std, imported) {
			return fmt.Sprintf("%s must not import %s", from, imported)
		}
		return ""
	}
	covers := func(base string) bool { return below(folder, base) }
	if slices.ContainsFunc(r.Own, covers) && !slices.ContainsFunc(r.Never, covers) {
		return ""
	}
	// A package and its own subpackages belong together.
	if below(from, folder) && below(folder, r.From) {
		return ""
	}
	return fmt.Sprintf("%s must not import %s", from, folder)
}

// Closure returns the folders of this module that the package in folder links,
// itself included, sorted. What is missing in the tree is an error.
func Closure(t *Tree, folder string) ([]string, error) {
	seen := map[string]bool{}
	todo := []string{folder}
	for len(todo) > 0 {
		next := todo[0]
		todo = todo[1:]
		if seen[next] {
			continue
		}
		seen[next] = true
		p := t.Package(next)
		if p == nil {
			return nil, fmt.Errorf("find package %s: not in the tree", next)
		}
		for _, f := range p.Files {
			for _, i := range f.Imports {
				if own, ok := t.own(i.Path); ok && !f.Test {
					todo = append(todo, own)
				}
			}
		}
	}
	all := make([]string, 0, len(seen))
	for f := range seen {
		all = append(all, f)
	}
	slices.Sort(all)
	return all, nil
}

// Lines counts the lines of the packages in folders, without tests.
func Lines(t *Tree, folders ...string) int {
	n := 0
	for _, folder := range folders {
		if p := t.Package(folder); p != nil {
			for _, f := range p.Files {
				if !f.Test {
					n += f.Lines
				}
			}
		}
	}
	return n
}
