package main

import (
	"debug/buildinfo"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

var committed = time.Date(2026, 11, 23, 7, 44, 44, 0, time.UTC)

func at(described string) source {
	return source{described: described, commit: "9c248caf00", time: committed}
}

func TestPackageVersionsOrderAsTheSourceDoes(t *testing.T) {
	earlier := at("9c248ca")
	earlier.time = earlier.time.Add(-time.Second)
	versions := []string{
		earlier.packageVersion(), at("9c248ca").packageVersion(), at("v1.0.0-rc1").packageVersion(), at("v1.0.0-rc2").packageVersion(),
		at("v1.0.0").packageVersion(), at("v1.0.0-2-gabcdef0").packageVersion(), at("v1.0.0-10-gabcdef0").packageVersion(),
		at("v1.0.1").packageVersion(), at("v1.0.1-dirty").packageVersion(), at("v1.10.0").packageVersion(),
	}
	if got, want := strings.Join(versions[1:8], " "),
		"0.0.0+20261123074444.g9c248ca 1.0.0~rc1 1.0.0~rc2 1.0.0 1.0.0+2.gabcdef0 1.0.0+10.gabcdef0 1.0.1"; got != want {
		t.Errorf("versions are %s, want %s", got, want)
	}
	if _, err := exec.LookPath("dpkg"); err != nil {
		t.Skip("dpkg, which knows the order, is not installed")
	}
	for i := 1; i < len(versions); i++ {
		if err := exec.Command("dpkg", "--compare-versions", versions[i-1], "lt", versions[i]).Run(); err != nil {
			t.Errorf("%s does not come before %s", versions[i-1], versions[i])
		}
	}
}

func TestChangelogHasTheFirstSentenceOfEachFileUnderItsRelease(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"TEMPLATE.md":               "not a change",
		"unreleased/b.md":           "Bugfix: a gateway finds its way back after a power cut that came while its certificate was renewed\n\nMore.\n",
		"unreleased/a.md":           "Enhancement: packages\n",
		"0.9.0_2026-10-01/first.md": "Enhancement: all of it\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	releases, err := readChangelog(at("v1.0.0"), dir)
	if err != nil {
		t.Fatal(err)
	}
	want := `gatewarden (1.0.0) stable; urgency=medium

  * Enhancement: packages
  * Bugfix: a gateway finds its way back after a power cut that came while its
    certificate was renewed

 -- ` + maintainer + `  Mon, 23 Nov 2026 07:44:44 +0000

gatewarden (0.9.0) stable; urgency=medium

  * Enhancement: all of it

 -- ` + maintainer + `  Thu, 01 Oct 2026 00:00:00 +0000
`
	if got := debianChangelog("gatewarden", releases); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if err := os.Mkdir(filepath.Join(dir, "0.8.0"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := readChangelog(at("v1.0.0"), dir); err == nil {
		t.Error("a folder without a date passes")
	}
}

func TestBillOfMaterialsNamesEveryModuleThatIsLinked(t *testing.T) {
	info := &debug.BuildInfo{GoVersion: "go1.26.8", Deps: []*debug.Module{
		{Path: "example.org/b", Version: "v1.0.0"},
		{Path: "example.org/old", Version: "v1.0.0", Replace: &debug.Module{Path: "example.org/a", Version: "v2.0.0"}},
	}}
	b := newBOM(at("v1.0.0"), "gatewarden", info, [32]byte{1})
	var refs []string
	for _, c := range b.Components {
		refs = append(refs, c.PURL)
	}
	if got := strings.Join(refs, " "); got != "pkg:golang/example.org/a@v2.0.0 pkg:golang/example.org/b@v1.0.0 pkg:golang/stdlib@1.26.8" {
		t.Errorf("components are %s", got)
	}
	if c := b.Metadata.Component; c.Name != "gatewarden" || c.Version != "1.0.0" || !strings.HasPrefix(c.Hashes[0].Content, "0100") {
		t.Errorf("it is of %+v", c)
	}
	raw, err := json.Marshal(b)
	if err != nil || !strings.Contains(string(raw), `"bomFormat":"CycloneDX","specVersion":"1.6","version":1`) {
		t.Errorf("%s, %v", raw, err)
	}
}

// The test's own program stands for a released one.
func TestNoticesCoverEveryModuleThatIsLinked(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	info, err := buildinfo.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	info.Deps = []*debug.Module{{Path: "github.com/spf13/cobra"}, {Path: "golang.org/x/sys"}}
	text, err := notices(t.Context(), info)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"github.com/spf13/cobra", "golang.org/x/sys", "Apache License", "Redistribution and use in source and binary forms", "the Go standard library"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing", want)
		}
	}
	if _, err := licences(t.TempDir()); err == nil {
		t.Error("a module without a licence passes")
	}
}

func TestUnknownArchitectureIsRefused(t *testing.T) {
	if _, err := chooseTargets([]string{"amd64", "x86_64"}); err == nil || !strings.Contains(err.Error(), `"x86_64"`) {
		t.Errorf("error is %v", err)
	}
}
