package doctor

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestNothingThatWasFoundReachesTheTerminalRaw(t *testing.T) {
	b := newBox(t)
	b.c.Vendor = "\x1b[2Jgone\u009b"
	if out := text(Run(t.Context(), b.Machine)); !strings.Contains(out, "INTC ?[2Jgone? at") {
		t.Errorf("control characters pass: %q", out)
	}
}

// TestWhatMattersMostComesLast: a console shows the end of what was printed.
func TestWhatMattersMostComesLast(t *testing.T) {
	b := newBox(t)
	b.c.EK = nil
	b.remove(eventLogFile, "/proc/cmdline")
	out := text(Run(t.Context(), b.Machine))
	at := func(word string) int {
		i := strings.Index(out, word)
		if i < 0 {
			t.Errorf("no %q in:\n%s", word, out)
		}
		return i
	}
	order := []int{at("ok      tpm"), at("UNKNOWN  verity"), at("ADVICE   ek.none"), at("PROBLEM  event-log.none"), at("Can this machine"), at("attest  no       event-log.none")}
	if !slices.IsSorted(order) {
		t.Errorf("order %v of:\n%s", order, out)
	}
}

// TestEveryCaseHasMeaningAndRemedy in sentences, under a name of its own.
func TestEveryCaseHasMeaningAndRemedy(t *testing.T) {
	name := regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	var names []string
	for _, check := range All() {
		if !name.MatchString(check.Name) || check.About == "" || (check.Look == nil) == (check.Ask == nil) {
			t.Errorf("check %+v", check)
		}
		list := check.List()
		if n := strings.Count(check.Cases, "\n\n") + 1; len(list) != n {
			t.Errorf("%s: %d cases of %d can be read", check.Name, len(list), n)
		}
		for _, c := range list {
			full := check.Name + "." + c.Name
			if slices.Contains(names, full) {
				t.Errorf("%s twice", full)
			}
			names = append(names, full)
			if !name.MatchString(c.Name) || c.Level != Advice && c.Level != Problem || len(c.Abilities) == 0 ||
				slices.ContainsFunc(c.Abilities, func(a string) bool { return !slices.Contains(Abilities(), a) }) {
				t.Errorf("%s: %s for %q", full, c.Level, c.Abilities)
			}
			for _, text := range []string{c.Means, c.Do} {
				if !strings.HasSuffix(text, ".") || strings.Contains(text, "\n") || strings.Count(text, `"`)%2 != 0 {
					t.Errorf("%s: %q", full, text)
				}
			}
		}
	}
}

func TestANoteThatTheListLacksIsABugAndSaidSo(t *testing.T) {
	n := &notes{check: &Check{Name: "x", For: "seal"}}
	n.ok("fine")
	n.is("never", "facts")
	if all := n.all(); len(all) != 1 || all[0].Level != Unknown || !strings.Contains(all[0].Found, "facts: the check has no case never") {
		t.Errorf("%+v", all)
	}
}
