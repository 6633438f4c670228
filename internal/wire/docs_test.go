package wire_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/attest"
)

// firstCells returns what stands in backquotes in the first cell of any row of a page.
func firstCells(t *testing.T, page string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../docs", page))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		cell, ok := strings.CutPrefix(line, "| ")
		if !ok {
			continue
		}
		cell, _, _ = strings.Cut(cell, " | ")
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1) {
			found = append(found, m[1])
		}
	}
	return found
}

// rules finds the words by which the code of a folder refuses: string arguments
// of refuse(...), Rule: "..." in literals, and constants called Rule....
func rules(t *testing.T, folder string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../..", folder, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in %s: %v", folder, err)
	}
	var found []string
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if word := ruleIn(n); word != "" {
				found = append(found, word)
			}
			return true
		})
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func ruleIn(n ast.Node) string {
	switch n := n.(type) {
	case *ast.CallExpr:
		if f, ok := n.Fun.(*ast.Ident); ok && f.Name == "refuse" {
			for _, a := range n.Args[:min(2, len(n.Args))] {
				if word := wordOf(a); word != "" {
					return word
				}
			}
		}
	case *ast.KeyValueExpr:
		if key, ok := n.Key.(*ast.Ident); ok && key.Name == "Rule" {
			return wordOf(n.Value)
		}
	case *ast.ValueSpec:
		if strings.HasPrefix(n.Names[0].Name, "Rule") && len(n.Values) == 1 {
			return wordOf(n.Values[0])
		}
	}
	return ""
}

func wordOf(e ast.Expr) string {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return ""
	}
	word, err := strconv.Unquote(lit.Value)
	if err != nil || !regexp.MustCompile(`^[a-z][a-z-]*$`).MatchString(word) {
		return ""
	}
	return word
}

// TestEveryRefusalIsExplained: whoever is refused by a word finds it in protocol.md.
func TestEveryRefusalIsExplained(t *testing.T) {
	explained := firstCells(t, "protocol.md")
	total := 0
	for _, folder := range []string{"fleet/device", "attest", "fleet/verifier", "internal/policy", "agent/command", "internal/wire"} {
		for _, rule := range rules(t, folder) {
			total++
			if !slices.Contains(explained, rule) {
				t.Errorf("%s refuses by the rule %q, which docs/protocol.md does not explain", folder, rule)
			}
		}
	}
	if total < 40 {
		t.Errorf("found only %d rules: the reader looks in the wrong places", total)
	}
}

// TestPolicyPageIsTrue: it has every rule, and its example is accepted.
func TestPolicyPageIsTrue(t *testing.T) {
	explained := firstCells(t, "policy.md")
	for _, rule := range attest.RuleNames() {
		if !slices.Contains(explained, rule) {
			t.Errorf("docs/policy.md does not explain the rule %q", rule)
		}
	}
	text, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "```json\n")
	body, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatal("docs/policy.md has no example")
	}
	if _, err := attest.ParsePolicy([]byte(body)); err != nil {
		t.Errorf("the example of docs/policy.md: %v", err)
	}
}
