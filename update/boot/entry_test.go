package boot_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	uki "github.com/gatewarden/gatewarden/testdata/boot"
	"github.com/gatewarden/gatewarden/update/boot"
)

// The series of names in the Boot Loader Specification, "Boot counting".
func TestCountersRunAsInTheSpecification(t *testing.T) {
	for _, series := range [][]string{
		{"foobar+3.efi", "foobar+2-1.efi", "foobar+1-2.efi", "foobar+0-3.efi", "foobar+0-4.efi"},
		{"foobar+4-0.efi", "foobar+3-1.efi", "foobar+2-2.efi", "foobar+1-3.efi", "foobar+0-4.efi"},
		{"gw-b+1.efi", "gw-b+0-1.efi"},
		{"a+1+1.efi", "a+1+0-1.efi"}, // the last one counts
		{"gw-b.efi", "gw-b.efi"},
		{"gw-b+.efi", "gw-b+.efi"},
		{"gw-b+1-.efi", "gw-b+1-.efi"},
		{"gw-b+-1.efi", "gw-b+-1.efi"},
		{"gw-b+1x.efi", "gw-b+1x.efi"},
		{"gw-b+1.EFI", "gw-b+1.EFI"},
		{"gw-b+99999999999.efi", "gw-b+99999999999.efi"},
	} {
		for i := range len(series) - 1 {
			if got := (boot.Entry{Name: series[i]}).Booting().Name; got != series[i+1] {
				t.Errorf("%s becomes %s, want %s", series[i], got, series[i+1])
			}
		}
	}
}

func TestSlotOfAName(t *testing.T) {
	for name, slot := range map[string]string{
		"gw-a.efi": "a", "gw-b.efi": "b", "GW-B.EFI": "b", "gw-b+1.efi": "b", "gw-b+0-1.efi": "b",
		"gw-c.efi": "", "gw-ab.efi": "", "gw-a": "", "gw-a.efi.tmp": "", "xgw-a.efi": "", "": "",
	} {
		if got := (boot.Entry{Name: name}).Slot(); got != slot {
			t.Errorf("%q is slot %q, want %q", name, got, slot)
		}
	}
}

func TestVersionsOrderAsSystemdOrdersThem(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is missing: install systemd")
	}
	const chars = "0123019ab.~-^_+"
	random := rand.New(rand.NewPCG(1, 2))
	versions := []string{"1.0.0", "1.0.10", "1.0.9", "1.0.0~rc1", "1.0.0-1", "1.0.0^p", "2", "02", "1.0a", "1.0.a", "123", "123_a", "1.4.0-rc1"}
	for range 60 {
		v := make([]byte, 1+random.IntN(7))
		for i := range v {
			v[i] = chars[random.IntN(len(chars))]
		}
		versions = append(versions, string(v))
	}
	for range 200 {
		a, b := versions[random.IntN(len(versions))], versions[random.IntN(len(versions))]
		out, err := exec.Command("systemd-analyze", "compare-versions", "--", a, b).Output()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		want := strings.Fields(string(out))[1]
		if got := map[int]string{-1: "<", 0: "==", 1: ">"}[boot.CompareVersions(a, b)]; got != want {
			t.Errorf("%q %s %q, systemd says %s", a, got, b, want)
		}
	}
}

// randomEntry is a UKI of one of two systems, with or without tries.
func randomEntry(random *rand.Rand, n int) (name string, data []byte) {
	counter := []string{"", "", "+1", "+3", "+0-1", "+0-3", "+2-1"}[random.IntN(7)]
	release := []string{"ID=gw\n", "ID=ab\n", "ID=gw\nIMAGE_ID=ab\n", "NAME=x\n", "PRETTY_NAME='gw'\nID=zz\n"}[random.IntN(5)]
	release += []string{"VERSION_ID=%d\n", "VERSION_ID=1\nVERSION=\"%d\"\n", "IMAGE_VERSION=1.%d\n", "BUILD_ID=%d~1\n"}[random.IntN(4)]
	return fmt.Sprintf("e%d%s.efi", n, counter), uki.UKI("k", fmt.Sprintf(release, n), "root=x")
}

// bootctl reads entries and puts them in order by the code that systemd shares with
// its boot loader.
func TestChoiceIsThatOfBootctl(t *testing.T) {
	bootctl, err := exec.LookPath("bootctl")
	if err != nil {
		t.Skip("bootctl is missing: install systemd-boot")
	}
	esp := t.TempDir() // it must be the root of a file system
	if out, err := exec.Command("mount", "-t", "tmpfs", "none", esp).CombinedOutput(); err != nil {
		t.Skipf("no file system can be mounted here: %v: %s", err, out)
	}
	defer exec.Command("umount", esp).Run()
	linux := filepath.Join(esp, "EFI", "Linux")
	random := rand.New(rand.NewPCG(3, 4))
	for round := range 40 {
		if err := errors.Join(os.RemoveAll(linux), os.MkdirAll(linux, 0o755)); err != nil {
			t.Fatal(err)
		}
		for n := range 1 + random.IntN(5) {
			name, data := randomEntry(random, n)
			if err := os.WriteFile(filepath.Join(linux, name), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		all, err := boot.ReadEntries(os.DirFS(linux))
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(bootctl, "--esp-path="+esp, "--json=short", "list")
		cmd.Env = append(os.Environ(), "SYSTEMD_RELAX_ESP_CHECKS=1")
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		var first struct {
			Path, SortKey, Version string
		}
		if err := json.NewDecoder(strings.NewReader(string(out))).Decode(&first); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		got, _ := boot.Choose(all)
		if got.Name != filepath.Base(first.Path) || got.SortKey != first.SortKey || got.Version != first.Version {
			t.Errorf("round %d: %+v comes first, bootctl says %+v", round, got, first)
		}
	}
}

// The same check on a FAT image that no kernel mounted: mtools copies EFI/Linux out
// of it, as a test of crash states does.
func TestBootableSlotOfAnImage(t *testing.T) {
	for _, tool := range []string{"mkfs.vfat", "mcopy"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool + " is missing: install dosfstools and mtools")
		}
	}
	dir := t.TempDir()
	image, out := filepath.Join(dir, "esp.img"), filepath.Join(dir, "out")
	run := func(name string, args ...string) {
		t.Helper()
		if text, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v: %s", name, args, err, text)
		}
	}
	if err := errors.Join(os.WriteFile(image, make([]byte, 8<<20), 0o600), os.Mkdir(out, 0o700)); err != nil {
		t.Fatal(err)
	}
	run("mkfs.vfat", image)
	run("mmd", "-i", image, "::/EFI", "::/EFI/Linux")
	for name, data := range map[string][]byte{
		"gw-a.efi":        uki.UKI("1", "ID=gw\nVERSION_ID=1.0.0\n", "root=PARTLABEL=slot-a"),
		"gw-b+1.efi":      uki.UKI("2", "ID=gw\nVERSION_ID=1.1.0\n", "root=PARTLABEL=slot-b"),
		".gw-b+1.efi.tmp": []byte("torn"),
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		run("mcopy", "-i", image, file, "::/EFI/Linux/"+name)
	}
	run("mcopy", "-s", "-i", image, "::/EFI/Linux", out)
	all, err := boot.ReadEntries(os.DirFS(filepath.Join(out, "Linux")))
	if err != nil || len(all) != 2 {
		t.Fatalf("entries are %v, %v", all, err)
	}
	if first, ok := boot.Choose(all); !ok || first.Slot() != "b" || first.Name != "gw-b+1.efi" {
		t.Errorf("%+v would start", first)
	}
}

// A file that is no UKI is no entry and no error, however it is broken.
func TestBrokenFilesAreNoEntries(t *testing.T) {
	whole := uki.UKI("k", "ID=gw\nVERSION_ID=1\n", "root=x")
	files := fstest.MapFS{
		"gw-a.efi": {Data: whole}, "empty.efi": {}, "text.efi": {Data: []byte("#!/bin/sh")}, "nameless.efi": {Data: uki.UKI("k", "VERSION_ID=1\n", "")},
		"zero.efi": {Data: make([]byte, 4096)}, "auto-x.efi": {Data: whole}, ".gw-b+1.efi.tmp": {Data: whole}, ".gw-b.efi": {Data: whole},
		"loader.efi": {Data: uki.PE(uki.Section{Name: ".text", Data: []byte("x")})}, "dir.efi/file": {Data: whole}, "gw-b.conf": {Data: whole},
		"huge.efi": {Data: uki.PE(uki.Section{Name: ".osrel", Data: make([]byte, 1<<20)})},
	}
	for n := range 700 {
		files[fmt.Sprintf("cut%d.efi", n)] = &fstest.MapFile{Data: whole[:n]}
	}
	all, err := boot.ReadEntries(files)
	if err != nil || len(all) != 1 || all[0] != (boot.Entry{Name: "gw-a.efi", SortKey: "gw", Version: "1", CommandLine: "root=x"}) {
		t.Errorf("entries are %+v, %v", all, err)
	}
	if _, ok := boot.Choose(nil); ok {
		t.Error("an entry is chosen where there is none")
	}
}

func FuzzReadEntries(f *testing.F) {
	f.Add(uki.UKI("k", "ID=gw\nVERSION_ID=1\n", "root=x"))
	f.Add(uki.PE())
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := boot.ReadEntries(fstest.MapFS{"x.efi": {Data: data}})
		if err != nil || len(all) > 1 {
			t.Errorf("entries are %+v, %v", all, err)
		}
	})
}
