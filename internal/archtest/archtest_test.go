package archtest

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

func read(t *testing.T) *Tree {
	t.Helper()
	tree, err := Read(root)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func report(t *testing.T, faults []string) {
	t.Helper()
	for _, f := range faults {
		t.Error(f)
	}
}

func TestImportTableHolds(t *testing.T) { report(t, Imports(read(t), Table())) }

func TestNoInitNoPanicNoStateNoGlobalLogger(t *testing.T) { report(t, Style(read(t))) }

func TestFilesAndFunctionsStayBelowTheirCeilings(t *testing.T) { report(t, Sizes(read(t))) }

// A reader that misses folders would find no fault in them.
func TestEveryFolderWithGoFilesWasRead(t *testing.T) {
	tree := read(t)
	files, folders := 0, map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		parts := strings.Split(filepath.ToSlash(rel), "/")
		skip := func(s string) bool { return len(s) > 1 && (s[0] == '.' || s[0] == '_') || s == "testdata" }
		if parts[0] == "tools" || slices.ContainsFunc(parts, skip) || !strings.HasSuffix(path, ".go") {
			return nil
		}
		files++
		folders[filepath.Dir(rel)] = true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(folders) == 0 || len(tree.Packages) != len(folders) || len(tree.files()) != files {
		t.Errorf("read %d packages with %d files, on disk are %d with %d", len(tree.Packages), len(tree.files()), len(folders), files)
	}
	for _, must := range []string{"attest", "internal/wire", "internal/archtest"} {
		if tree.Package(must) == nil {
			t.Errorf("%s was not read", must)
		}
	}
}

// The device binary as a whole, whatever way a package got into it.
func TestDeviceBinaryLinksNothingOfTheFleet(t *testing.T) {
	tree := read(t)
	if tree.Package("cmd/gatewarden") == nil {
		t.Skip("cmd/gatewarden does not exist yet")
	}
	closure, err := Closure(tree, "cmd/gatewarden")
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range closure {
		if below(folder, "fleet") || folder == "tpm/tpmtest" || slices.Contains(buildTools(), folder) {
			t.Errorf("the device binary links %s", folder)
		}
	}
}

// write lays a module out in a temporary folder.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	files["go.mod"] = "module example.org/m\n\ngo 1.26\n"
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

func TestForbiddenEdgesAreSeen(t *testing.T) {
	for name, c := range map[string]struct{ file, imported, want string }{
		"fleet to tpm":                                {"fleet/a/a.go", "example.org/m/tpm", "fleet/a/a.go:4: fleet/a must not import tpm"},
		"fleet to agent":                              {"fleet/a.go", "example.org/m/agent/link", "fleet must not import agent/link"},
		"fleet to helper":                             {"fleet/a.go", "example.org/m/helper", "must not import helper"},
		"fleet to the engine":                         {"fleet/a.go", "example.org/m/update", "must not import update"},
		"fleet to metadata":                           {"fleet/a.go", "example.org/m/update/tuf", ""},
		"update to tpm":                               {"update/boot/a.go", "example.org/m/tpm", "update/boot must not import tpm"},
		"attest to internal":                          {"attest/a.go", "example.org/m/internal/wire", "attest must not import internal/wire"},
		"attest to the network":                       {"attest/a.go", "net/http", "attest must not import net/http"},
		"agent to fleet":                              {"agent/a.go", "example.org/m/fleet", "agent must not import fleet"},
		"agent to boot loaders":                       {"agent/a.go", "example.org/m/update/boot", "agent must not import update/boot"},
		"agent to the helper":                         {"agent/a.go", "example.org/m/helper", "agent must not import helper"},
		"agent to its client":                         {"agent/a.go", "example.org/m/helper/client", ""},
		"agent to a folder that only begins the same": {"agent/a.go", "example.org/m/helper/clients", "must not import helper/clients"},
		"agent to exec":                               {"agent/health/a.go", "os/exec", "agent/health must not import os/exec"},
		"agent to templates":                          {"agent/a.go", "text/template", "must not import text/template"},
		"helper to exec":                              {"helper/a.go", "os/exec", ""},
		"tpm to exec":                                 {"tpm/a.go", "os/exec", "tpm must not import os/exec"},
		"tpmtest to exec":                             {"tpm/tpmtest/a.go", "os/exec", ""},
		"internal to tpm":                             {"internal/a/a.go", "example.org/m/tpm", "internal/a must not import tpm"},
		"internal to exec":                            {"internal/a/a.go", "os/exec", "must not import os/exec"},
		"internal to build tool":                      {"internal/a/a.go", "example.org/m/internal/check", "must not import internal/check"},
		"device binary to fleet":                      {"cmd/gatewarden/a.go", "example.org/m/fleet/ca", "cmd/gatewarden must not import fleet/ca"},
		"device binary to tpmtest":                    {"cmd/gatewarden/a.go", "example.org/m/tpm/tpmtest", "must not import tpm/tpmtest"},
		"fleet binary to tpmtest":                     {"cmd/gatewarden-fleet/demo/a.go", "example.org/m/tpm/tpmtest", ""},
		"folder without a rule":                       {"misc/a.go", "fmt", "misc: no import rule covers this folder"},
		"global logger":                               {"agent/a.go", "log", "must not import log"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := write(t, map[string]string{c.file: "// Package a does a thing.\npackage a\n\nimport _ \"" + c.imported + "\"\n"})
			tree, err := Read(dir)
			if err != nil {
				t.Fatal(err)
			}
			faults := Imports(tree, Table())
			if c.want == "" && len(faults) != 0 || c.want != "" && (len(faults) != 1 || !strings.Contains(faults[0], c.want)) {
				t.Errorf("got %q, want %q", faults, c.want)
			}
		})
	}
}

func TestStyleFaultsAreSeen(t *testing.T) {
	for name, c := range map[string]struct{ body, want string }{
		"init":               {"func init() {}", "a/a.go:4: func init"},
		"a method init":      {"type T struct{}\nfunc (T) init() {}", ""},
		"panic":              {"func f() { panic(1) }", "panic"},
		"global logger":      {"func f() { slog.Info(\"x\") }", "slog.Info is the global logger"},
		"own logger":         {"func f(slog logger) { slog.Info(\"x\") }", ""},
		"empty variable":     {"var cache map[string]int", "cache is package state"},
		"assigned":           {"var n = 1\nfunc f() { n = 2 }", "a/a.go:5: n is package state"},
		"counted":            {"var n = 1\nfunc f() { n++ }", "n is package state"},
		"element assigned":   {"var m = map[int]int{}\nfunc f() { m[1] = 2 }", "m is package state"},
		"field assigned":     {"var s = struct{ n int }{}\nfunc f() { s.n = 2 }", "s is package state"},
		"local of that name": {"var n = 1\nfunc f() { n := n; n = 2; _ = n }", ""},
		"sentinel":           {"var Err = errors.New(\"x\")\nvar _ fmt.Stringer = (*T)(nil)", ""},
		"embedded":           {"//go:embed x\nvar files embed.FS", ""},
	} {
		t.Run(name, func(t *testing.T) {
			tree, err := Read(write(t, map[string]string{"a/a.go": "// Package a does a thing.\npackage a\n\n" + c.body + "\n"}))
			if err != nil {
				t.Fatal(err)
			}
			faults := Style(tree)
			if c.want == "" && len(faults) != 0 || c.want != "" && (len(faults) != 1 || !strings.Contains(faults[0], c.want)) {
				t.Errorf("got %q, want %q", faults, c.want)
			}
		})
	}
}

func TestMissingDocAndSizesAreSeen(t *testing.T) {
	long := "// Package b does a thing.\npackage b\n\nfunc f() {\n" + strings.Repeat("\t_ = 1\n", MaxFile) + "}\n"
	tree, err := Read(write(t, map[string]string{"a/a.go": "package a\n", "b/b.go": long, "b/x_test.go": long, "b/sub/s.go": "// Package s does a thing.\npackage s\n"}))
	if err != nil {
		t.Fatal(err)
	}
	if faults := Style(tree); len(faults) != 1 || !strings.HasPrefix(faults[0], "a: no package comment") {
		t.Errorf("style: %q", faults)
	}
	want := []string{"b/b.go: 505 lines, the ceiling is 500", "b/b.go:4: f has 502 lines, the ceiling is 60", "b/x_test.go: 505 lines, the ceiling is 500"}
	if faults := Sizes(tree); !slices.Equal(faults, want) {
		t.Errorf("sizes: %q", faults)
	}
	if n := Lines(tree, "b", "b/sub"); n != 507 {
		t.Errorf("counted %d lines", n)
	}
}

func TestUnreadableSourceIsAnErrorNotAPass(t *testing.T) {
	if _, err := Read(write(t, map[string]string{"a/a.go": "pakage a\n"})); err == nil {
		t.Error("a file that does not parse was passed over")
	}
	if _, err := Read(t.TempDir()); err == nil {
		t.Error("a folder without go.mod was read")
	}
	tree, err := Read(write(t, map[string]string{"a/a.go": "// Package a does a thing.\npackage a\n\nimport _ \"example.org/m/gone\"\n"}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Closure(tree, "a"); err == nil {
		t.Error("a closure with a missing package was accepted")
	}
}
