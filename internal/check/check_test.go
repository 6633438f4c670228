package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// lay writes files into a module of their own.
func lay(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	if files["go.mod"] == "" {
		files["go.mod"] = "module example.org/m\n\ngo 1.26\n"
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func wantFault(t *testing.T, err error, lines ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no fault, want %q", lines)
		return
	}
	if got := strings.Split(err.Error(), "\n"); !slices.EqualFunc(got, lines, strings.Contains) {
		t.Errorf("got  %q\nwant %q", got, lines)
	}
}

func TestDeadLinksAreFoundWithTheirPlace(t *testing.T) {
	dir := lay(t, map[string]string{
		"README.md": "# Title\n[ok](docs/a.md) [gone](docs/gone.md)\n[head](docs/a.md#two-words) [no head](docs/a.md#three)\n" +
			"[web](https://example.org/x) [own](#title) [own gone](#titel)\n```\n[in code](nowhere.md)\n```\n`[code](nowhere.md)`\n[ref]: docs/gone2.md\n[out](../../etc/passwd) [folder](docs/)\n",
		"docs/a.md":          "## Two *words*\n[up](../README.md)\n## Same\n## Same\n[second](#same-1) [third](#same-2)\n",
		"testdata/ignore.md": "[gone](x.md)\n",
	})
	note, err := checkLinks(t.Context(), dir)
	wantFault(t, err,
		"README.md:10: ../../etc/passwd leads out of the tree",
		"README.md:2: docs/gone.md does not exist",
		"README.md:3: docs/a.md has no heading #three",
		"README.md:4: README.md has no heading #titel",
		"README.md:9: docs/gone2.md does not exist",
		"docs/a.md:5: docs/a.md has no heading #same-2",
	)
	if note != "13 links in 2 pages" {
		t.Errorf("note %q", note)
	}
}

func TestACitedTestThatIsNotThereIsFound(t *testing.T) {
	dir := lay(t, map[string]string{
		"docs/a.md": "`a/b.TestOne`, a/b.FuzzTwo\nand `a/b.TestTwo`, `a.TestOne`\n`TestOne` Tests a/b.TestOneMore\n",
		"a/b/b_test.go": "package b\n\nfunc TestOne(t *testing.T) {}\n\nfunc FuzzTwo(f *testing.F) {}\n\n" +
			"// func TestTwo(t *testing.T) {}\n",
	})
	note, err := checkCited(t.Context(), dir)
	wantFault(t, err,
		"docs/a.md:2: there is no test TestOne in a",
		"docs/a.md:2: there is no test TestTwo in a/b",
		"docs/a.md:3: TestOne needs its folder before it, as in tpm/seal.TestOne",
		"docs/a.md:3: there is no test TestOneMore in a/b",
	)
	if note != "6 tests are cited" {
		t.Errorf("note %q", note)
	}
}

func TestUnformattedFilesAreFound(t *testing.T) {
	dir := lay(t, map[string]string{"a/a.go": "package a\nvar  x = 1\n", "a/b.go": "package a\n"})
	_, err := checkFormat(t.Context(), dir)
	wantFault(t, err, "a/a.go: not formatted")
}

func TestVetFaultsAreShown(t *testing.T) {
	dir := lay(t, map[string]string{"a/a.go": "package a\n\nimport \"fmt\"\n\nfunc f() { fmt.Printf(\"%d\", \"x\") }\n"})
	_, err := checkVet(t.Context(), dir)
	if err == nil || !strings.Contains(err.Error(), "a.go:5") {
		t.Errorf("got %v", err)
	}
}

func TestAHelperThatGrewIsRefused(t *testing.T) {
	long := func(name string, n int) string {
		return "// Package x is a test.\npackage " + name + "\n" + strings.Repeat("\n", n)
	}
	note, err := checkHelper(t.Context(), lay(t, map[string]string{
		"helper/helper.go":        "// Package helper is a test.\npackage helper\n\nimport _ \"example.org/m/internal/a\"\n" + strings.Repeat("\n", maxHelper),
		"helper/helper_test.go":   long("helper", 9000), // tests don't count
		"internal/a/a.go":         long("a", maxHelperClosure),
		"internal/unlinked/un.go": long("unlinked", 9000),
	}))
	wantFault(t, err, "package helper has 1504 lines, the ceiling is 1500", fmt.Sprintf("helper links %d lines of ours", maxHelperClosure+1506), "1504 helper", fmt.Sprintf("%d internal/a", maxHelperClosure+2))
	if !strings.Contains(note, "(2 packages)") {
		t.Errorf("note %q", note)
	}
}

func TestABinaryThatKeepsAllMethodsIsRefused(t *testing.T) {
	dir := lay(t, map[string]string{"cmd/gatewarden/main.go": `package main

import (
	"os"
	"text/template"
)

func main() {
	_ = template.Must(template.New("").Parse(os.Args[1])).Execute(os.Stdout, os.Args)
}
`})
	note, err := checkBinary(t.Context(), dir)
	if err == nil || !strings.Contains(err.Error(), "reflect.Value.MethodByName is linked") || !strings.Contains(err.Error(), "text/template.(*Template).execute is linked") {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(note, "MB of 10.5") {
		t.Errorf("note %q", note)
	}
}

func TestASmallBinaryPasses(t *testing.T) {
	dir := lay(t, map[string]string{"cmd/gatewarden/main.go": "package main\n\nfunc main() {}\n"})
	if _, err := checkBinary(t.Context(), dir); err != nil {
		t.Error(err)
	}
}

func TestAUnitThatLeavesMoreOpenIsRefused(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not installed (Debian package systemd)")
	}
	files := make(map[string]string)
	for _, u := range units()[1:] {
		files[u.file] = "[Service]\nExecStart=/bin/true\nPrivateNetwork=yes\nProtectSistem=strict\n"
	}
	_, err := checkUnits(t.Context(), lay(t, files))
	wantFault(t, err, "gatewarden.service: does not exist",
		"Unknown key 'ProtectSistem'", "gatewarden-helper.service: exposure is 9.",
		"Unknown key 'ProtectSistem'", "gatewarden-credentials.service: exposure is 9.",
		"Unknown key 'ProtectSistem'", "gatewarden-fleet.service: exposure is 9.")
}

func TestOneFaultFailsTheRunButAllAreTried(t *testing.T) {
	tried := 0
	bad := func(context.Context, string) (string, error) { tried++; return "", errors.New("broken") }
	good := func(context.Context, string) (string, error) { tried++; return "fine", nil }
	var out bytes.Buffer
	err := runAll(t.Context(), []check{{"a", "", bad}, {"b", "", good}}, ".", &out)
	if err == nil || tried != 2 || !strings.Contains(err.Error(), "1 of 2 failed: a") {
		t.Errorf("tried %d, got %v", tried, err)
	}
	if s := out.String(); !strings.Contains(s, "FAIL a") || !strings.Contains(s, "broken") || !strings.Contains(s, "ok   b") {
		t.Errorf("printed %q", s)
	}
	if err := runAll(t.Context(), []check{{"b", "", good}}, ".", &out); err != nil {
		t.Error(err)
	}
}

func TestAnUnknownCheckIsRefused(t *testing.T) {
	if err := run(t.Context(), []string{"lnks"}, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "lnks") {
		t.Errorf("got %v", err)
	}
}

func TestGovulncheckSaysThatItWasNotRun(t *testing.T) {
	t.Setenv("GOVULNDB", "")
	if note, err := checkVulnerabilities(t.Context(), "."); err != nil || !strings.Contains(note, "not run") {
		t.Errorf("got %q, %v", note, err)
	}
}

func FuzzReadPage(f *testing.F) {
	f.Add("# A\n[x](y#z)\n[r]: t\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, l := range readPage(text).links {
			if l.target == "" || l.line < 1 {
				t.Errorf("link without target or place: %+v", l)
			}
		}
	})
}
