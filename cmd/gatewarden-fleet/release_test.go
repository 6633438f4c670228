package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/cli"
	"github.com/gatewarden/gatewarden/testdata/boot"
)

// author runs the verbs of release over one folder.
func author(t *testing.T, asJSON bool, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, log bytes.Buffer
	verb := releaseVerb(&options{json: asJSON, stdout: &out, stderr: &log})
	verb.SilenceErrors, verb.SilenceUsage = true, true
	verb.SetArgs(args)
	verb.SetOut(&out)
	verb.SetErr(&log)
	err = verb.ExecuteContext(t.Context())
	return out.String(), log.String(), err
}

func TestAReleaseIsMadeByTheVerbsInTheHelp(t *testing.T) {
	work := t.TempDir()
	repo, served := filepath.Join(work, "repo"), filepath.Join(work, "served")
	for name, data := range map[string][]byte{
		"root.img": bytes.Repeat([]byte("root file system "), 10000), "gw.efi": boot.UKI("kernel", "VERSION=1", "console=ttyS0"),
		"a.efi": boot.UKI("kernel", "VERSION=2", "root=PARTLABEL=slot-a"), "b.efi": boot.UKI("kernel", "VERSION=2", "root=PARTLABEL=slot-b"),
		"loader.efi": boot.PE(boot.Section{Name: ".text", Data: []byte("loader")}),
	} {
		if err := os.WriteFile(filepath.Join(work, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	steps := [][]string{
		{"init", "--product", "edge"},
		{"build", "--product", "edge", "--version", "1.4.0", "--hardware", "Acme G1", "--rootfs", filepath.Join(work, "root.img"),
			"--uki", filepath.Join(work, "gw.efi"), "--loader", filepath.Join(work, "loader.efi"), "--confirm", "disk=60", "--confirm", "link"},
		{"build", "--product", "edge", "--version", "1.5.0", "--hardware", "Acme G1", "--rootfs", filepath.Join(work, "root.img"),
			"--uki-a", filepath.Join(work, "a.efi"), "--uki-b", filepath.Join(work, "b.efi")},
		{"policy", "--fleet", "lab"},
		{"sign"},
		{"publish", "--to", served},
		{"list"},
		{"keys"},
		{"keys", "rotate", "timestamp"},
		{"withdraw", "--product", "edge", "--version", "1.4.0"},
	}
	for _, step := range steps {
		out, log, err := author(t, false, append(step, "--dir", repo)...)
		if err != nil || out == "" {
			t.Fatalf("%s: %v, prints %q", step[0], err, out)
		}
		if step[0] == "build" && !strings.Contains(log, "rootfs: 100 %") {
			t.Errorf("build tells no progress: %q", log)
		}
		if slices.Contains(step, "--uki-b") && (!strings.Contains(out, "boot-a") || !strings.Contains(out, "boot-b")) {
			t.Errorf("build prints %s", out)
		}
		if step[0] == "policy" {
			if _, err := attest.ParsePolicy([]byte(out)); err != nil {
				t.Errorf("what policy prints is no policy: %v", err)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(served, "metadata", "timestamp.json")); err != nil {
		t.Error(err)
	}
	for _, step := range [][]string{{"keys"}, {"sign"}, {"publish", "--to", served}, {"list"}} {
		out, _, err := author(t, true, append(step, "--dir", repo)...)
		if err != nil || !json.Valid([]byte(out)) {
			t.Errorf("%s --json: %v, prints %q", step[0], err, out)
		}
	}
}

func TestAWrongReleaseCommandLineSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	for text, args := range map[string][]string{
		"there is none":            {"sign", "--dir", dir},
		"number of seconds":        {"build", "--dir", dir, "--product", "edge", "--version", "1.0.0", "--hardware", "x", "--rootfs", "x", "--confirm", "disk=soon"},
		"none of CHECK=SECONDS":    {"build", "--dir", dir, "--product", "edge", "--version", "1.0.0", "--hardware", "x", "--rootfs", "x", "--confirm", "disk"},
		"[uki uki-a] are set":      {"build", "--dir", dir, "--product", "edge", "--version", "1.0.0", "--hardware", "x", "--rootfs", "x", "--uki", "x", "--uki-a", "x", "--uki-b", "x"},
		"[uki-b]":                  {"build", "--dir", dir, "--product", "edge", "--version", "1.0.0", "--hardware", "x", "--rootfs", "x", "--uki-a", "x"},
		"--deadline":               {"build", "--dir", dir, "--product", "edge", "--version", "1.0.0", "--hardware", "x", "--rootfs", "x", "--deadline", "soon"},
		`required flag(s) "dir"`:   {"sign"},
		"4 of 3 root keys":         {"init", "--dir", dir, "--product", "edge", "--threshold", "4"},
		`required flag(s) "to"`:    {"publish", "--dir", dir},
		"it must be a name":        {"init", "--dir", dir, "--product", "Edge Gateway"},
		"accepts between 1 and 2":  {"keys", "rotate", "--dir", dir},
		`unknown command "rotate"`: {"rotate", "--dir", dir},
	} {
		_, _, err := author(t, false, args...)
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v: %v", args, err)
		}
	}
	var usage cli.UsageError
	_, _, err := author(t, false, "build", "--dir", dir, "--product", "edge", "--version", "1.0.0", "--hardware", "x", "--rootfs", "x", "--confirm", "disk")
	if !errors.As(err, &usage) {
		t.Errorf("%v is no wrong command line", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("the folder has %v: %v", entries, err)
	}
}
