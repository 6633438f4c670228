package doctor

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

var rewrite = flag.Bool("update", false, "rewrite docs/troubleshooting.md")

const troubleshooting = "../../docs/troubleshooting.md"

// mark is where the page's generated part begins.
const mark = "<!-- From here on: go test ./agent/doctor -run Page -update -->\n"

// TestPageListsEveryFindingWithItsRemedy: docs/troubleshooting.md is what doctor says.
func TestPageListsEveryFindingWithItsRemedy(t *testing.T) {
	page, err := os.ReadFile(troubleshooting)
	if err != nil {
		t.Fatal(err)
	}
	head, _, found := strings.Cut(string(page), mark)
	if !found {
		t.Fatalf("%s lacks the line %s", troubleshooting, mark)
	}
	want := head + mark + catalogue()
	if string(page) == want {
		return
	}
	if !*rewrite {
		t.Fatalf("%s is not what doctor says: run go test ./agent/doctor -run Page -update", troubleshooting)
	}
	if err := os.WriteFile(troubleshooting, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

func catalogue() string {
	var s strings.Builder
	for _, check := range All() {
		fmt.Fprintf(&s, "\n## %s\n\n%s%s.\n\n| Finding | Means | Do |\n|---|---|---|\n", check.Name, strings.ToUpper(check.About[:1]), check.About[1:])
		for _, c := range check.List() {
			whom := strings.Join(c.Abilities, ", ")
			if len(c.Abilities) == len(Abilities()) {
				whom = "everything"
			}
			fmt.Fprintf(&s, "| `%s.%s`: %s for %s | %s | %s |\n", check.Name, c.Name, c.Level, whom, typed(c.Means), typed(c.Do))
		}
	}
	return s.String()
}

// typed sets what is in double quotes as code.
func typed(s string) string { return regexp.MustCompile(`"([^"]*)"`).ReplaceAllString(s, "`$1`") }
