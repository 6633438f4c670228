package boot_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/gatewarden/gatewarden/internal/fsx"
	uki "github.com/gatewarden/gatewarden/testdata/boot"
	"github.com/gatewarden/gatewarden/update/boot"
	"github.com/gatewarden/gatewarden/update/boot/boottest"
)

// efi is a machine whose firmware starts systemd-boot: slot a, release 1.0.0.
type efi struct {
	*testing.T
	dir      string
	running  string
	releases int
	readOnly bool // the firmware can't rename files
}

func newEFI(t *testing.T) *efi {
	m := &efi{T: t, dir: t.TempDir()}
	for _, dir := range []string{"esp/EFI/Linux", "esp/loader", "efivars", "slots/slot-a", "slots/slot-b"} {
		m.must(os.MkdirAll(m.path(dir), 0o755))
	}
	m.write("esp/loader/loader.conf", []byte("timeout 0\n#default gw-a.efi\n"))
	m.write("esp/EFI/Linux/gw-a.efi", m.uki("a", "gw", "1.0.0"))
	m.variable("LoaderFeatures", binary.LittleEndian.AppendUint64(nil, 0x7ff)) // of systemd-boot 251
	return m
}

func (m *efi) must(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

func (m *efi) path(name string) string { return filepath.Join(m.dir, name) }

func (m *efi) write(name string, data []byte) { m.must(os.WriteFile(m.path(name), data, 0o644)) }

func (m *efi) variable(name string, data []byte) {
	m.write("efivars/"+name+"-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f", append([]byte{6, 0, 0, 0}, data...))
}

func (m *efi) text(name, s string) {
	var data []byte
	for _, unit := range utf16.Encode([]rune(s + "\x00")) {
		data = binary.LittleEndian.AppendUint16(data, unit)
	}
	m.variable(name, data)
}

func (m *efi) uki(slot, id, version string) []byte {
	return uki.UKI("kernel "+version, "ID="+id+"\nVERSION_ID=\""+version+"\"\n", "quiet root=PARTLABEL=slot-"+slot+" rw")
}

func (m *efi) stage(slot string, data []byte) { m.write("slots/slot-"+slot+"/boot.img", data) }

func (m *efi) deps(fs *fsx.FS) boot.Deps {
	return boot.Deps{FS: fs, Folder: m.path("slots"), ESP: m.path("esp"), EFIVars: m.path("efivars"), CommandLine: m.path("cmdline")}
}

func (m *efi) loader(fs *fsx.FS) boot.Loader {
	for _, l := range boot.All(m.deps(fs)) {
		if l.Name == "systemd-boot" {
			return l.Loader
		}
	}
	m.Fatal("systemd-boot is not in the list")
	return nil
}

// release plays the helper: the next release lies in the slot that does not run.
func (m *efi) release() {
	m.releases++
	spare := boot.Other(m.running)
	m.stage(spare, m.uki(spare, "gw", fmt.Sprint("1.0.", m.releases)))
}

func (m *efi) entries() []boot.Entry {
	all, err := boot.ReadEntries(os.DirFS(m.path("esp/EFI/Linux")))
	m.must(err)
	return all
}

func (m *efi) names() (names []string) {
	files, err := os.ReadDir(m.path("esp/EFI/Linux"))
	m.must(err)
	for _, f := range files {
		names = append(names, f.Name())
	}
	return names
}

// boot plays the firmware and systemd-boot.
func (m *efi) boot() (string, error) {
	first, ok := boot.Choose(m.entries())
	if !ok {
		return "", errors.New("no loader found")
	}
	m.text("LoaderEntrySelected", strings.ToLower(first.Name))
	if now := first.Booting().Name; now != first.Name && !m.readOnly {
		if err := os.Rename(m.path("esp/EFI/Linux/"+first.Name), m.path("esp/EFI/Linux/"+now)); err != nil {
			return "", err
		}
		m.text("LoaderBootCountPath", `\EFI\Linux\`+now)
	}
	m.write("cmdline", []byte(first.CommandLine+"\n"))
	_, label, _ := strings.Cut(first.CommandLine, "PARTLABEL=slot-")
	m.running = label[:1]
	return m.running, nil
}

func (m *efi) wantBoot(slot string, trial bool) {
	m.Helper()
	started, err := m.boot()
	m.must(err)
	says, onTrial, err := m.loader(&fsx.FS{}).Booted()
	m.must(err)
	if started != slot || says != slot || onTrial != trial {
		m.Fatalf("slot %s started, the loader says %s, trial %v; want %s, %v", started, says, onTrial, slot, trial)
	}
}

func (m *efi) wantNames(want ...string) {
	m.Helper()
	if got := m.names(); !slices.Equal(got, want) {
		m.Errorf("EFI/Linux holds %v, want %v", got, want)
	}
}

func TestSystemdBootConforms(t *testing.T) {
	boottest.Run(t, func(t *testing.T) boottest.Machine {
		m := newEFI(t)
		return boottest.Machine{
			Loader: func(fs *fsx.FS) boot.Loader {
				if m.running != "" {
					m.release()
				}
				return m.loader(fs)
			},
			Boot: m.boot,
		}
	})
}

func TestNamesOfATrialAreThoseOfTheSpecification(t *testing.T) {
	m := newEFI(t)
	m.wantBoot("a", false)
	m.release()
	l := m.loader(&fsx.FS{})
	m.must(l.TryNext("b"))
	m.wantNames("gw-a.efi", "gw-b+1.efi")
	if slot, trial, err := l.Booted(); slot != "a" || trial || err != nil {
		t.Errorf("before the trial: slot %s, trial %v, %v", slot, trial, err)
	}
	m.wantBoot("b", true)
	m.wantNames("gw-a.efi", "gw-b+0-1.efi")
	m.wantBoot("a", false)
	m.must(l.Commit("a"))
	m.wantNames("gw-a.efi") // the failed one is gone
	m.must(l.TryNext("b"))
	m.wantBoot("b", true)
	m.must(l.Commit("b"))
	m.wantNames("gw-a.efi", "gw-b.efi") // as systemd-bless-boot would name it; a is there if b can't be read
}

// What makes the promise of one boot impossible is refused before anything is
// written.
func TestTryNextRefusesWhatSystemdBootWouldNotDo(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(m *efi)
		want  string
	}{
		"same version":   {func(m *efi) { m.stage("b", m.uki("b", "gw", "1.0.0")) }, "higher VERSION_ID"},
		"lower version":  {func(m *efi) { m.stage("b", m.uki("b", "gw", "0.9.9")) }, "higher VERSION_ID"},
		"pre-release":    {func(m *efi) { m.stage("b", m.uki("b", "gw", "1.0.0~rc1")) }, "higher VERSION_ID"},
		"later sort key": {func(m *efi) { m.stage("b", m.uki("b", "gx", "2.0.0")) }, "same ID"},
		"no version":     {func(m *efi) { m.stage("b", m.uki("b", "gw", "")) }, "no VERSION_ID"},
		"for the other":  {func(m *efi) { m.stage("b", m.uki("a", "gw", "2.0.0")) }, "PARTLABEL=slot-a"},
		"for no slot":    {func(m *efi) { m.stage("b", uki.UKI("k", "ID=gw\nVERSION_ID=2\n", "root=/dev/vda3")) }, "names no slot"},
		"no PE file":     {func(m *efi) { m.stage("b", []byte("a kernel")) }, "no PE file"},
		"nothing staged": {func(m *efi) { m.must(os.Remove(m.path("slots/slot-b/boot.img"))) }, "open staged UKI"},
		"a staged link": {func(m *efi) {
			m.must(os.Remove(m.path("slots/slot-b/boot.img")))
			m.must(os.Symlink(m.path("esp/EFI/Linux/gw-a.efi"), m.path("slots/slot-b/boot.img")))
		}, "open staged UKI"},
		"default by file": {func(m *efi) { m.write("esp/loader/loader.conf", []byte("timeout 3\ndefault gw-*\n")) }, "loader.conf"},
		"default by EFI":  {func(m *efi) { m.text("LoaderEntryDefault", "gw-a.efi") }, "LoaderEntryDefault"},
		"a stranger":      {func(m *efi) { m.write("esp/EFI/Linux/rescue.efi", m.uki("a", "gw", "9.0")) }, "rescue.efi"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newEFI(t)
			m.wantBoot("a", false)
			m.release()
			c.spoil(m)
			before := m.names()
			if err := m.loader(&fsx.FS{}).TryNext("b"); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want one with %q", err, c.want)
			}
			m.wantNames(before...)
		})
	}
}

// Which slot runs is what the loader and the kernel say, and both must agree.
func TestRunningSlotIsNotGuessed(t *testing.T) {
	for name, spoil := range map[string]func(m *efi){
		"no variable":      func(m *efi) { m.must(os.RemoveAll(m.path("efivars"))) },
		"another entry":    func(m *efi) { m.text("LoaderEntrySelected", "debian.efi") },
		"the other slot":   func(m *efi) { m.text("LoaderEntrySelected", "gw-b+1.efi") },
		"another root":     func(m *efi) { m.write("cmdline", []byte("root=PARTLABEL=slot-b")) },
		"two roots":        func(m *efi) { m.write("cmdline", []byte("root=PARTLABEL=slot-a x=/dev/disk/by-partlabel/slot-b")) },
		"no root":          func(m *efi) { m.write("cmdline", []byte("root=/dev/vda2")) },
		"a longer label":   func(m *efi) { m.write("cmdline", []byte("root=PARTLABEL=slot-ab")) },
		"ESP not mounted":  func(m *efi) { m.must(os.Remove(m.path("esp/EFI/Linux/gw-a.efi"))) },
		"cut EFI variable": func(m *efi) { m.write("efivars/LoaderEntrySelected-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f", []byte{6}) },
	} {
		t.Run(name, func(t *testing.T) {
			m := newEFI(t)
			m.wantBoot("a", false)
			m.release()
			spoil(m)
			l := m.loader(&fsx.FS{})
			if slot, _, err := l.Booted(); err == nil {
				t.Errorf("slot %q is said to run", slot)
			}
			if l.TryNext("b") == nil || l.Commit("a") == nil {
				t.Error("the EFI system partition is written to")
			}
		})
	}
}

func TestProbeKnowsSystemdBoot(t *testing.T) {
	m := newEFI(t)
	d := m.deps(&fsx.FS{})
	m.must(m.loader(d.FS).Probe())
	if l, err := boot.Detect(d); err != nil || l.(boot.Imager).Image() != "boot" {
		t.Errorf("found %v, %v", l, err)
	}
	for name, features := range map[string]uint64{"no counting": 0x7ff &^ 0x10, "no sort key": 0xff, "nothing": 0} {
		m.variable("LoaderFeatures", binary.LittleEndian.AppendUint64(nil, features))
		if m.loader(d.FS).Probe() == nil {
			t.Errorf("%s: it is accepted", name)
		}
	}
	d.ESP = ""
	if _, err := boot.Detect(d); err == nil || !strings.Contains(err.Error(), "systemd-boot: no EFI system partition") {
		t.Errorf("error is %v", err)
	}
}

// The slot that runs on trial can be kept or left, and nothing else.
func TestSlotOnTrialIsNotPutOnTrial(t *testing.T) {
	m := newEFI(t)
	m.wantBoot("a", false)
	m.release()
	l := m.loader(&fsx.FS{})
	m.must(l.TryNext("b"))
	m.wantBoot("b", true)
	before := m.names()
	if l.TryNext("b") == nil || l.TryNext("a") == nil || l.Commit("a") == nil {
		t.Error("it was accepted")
	}
	m.wantNames(before...)
}

// Firmware that can't write to the EFI system partition leaves the try in the
// name: the boot is counted once we run, so that the way back is open.
func TestBootIsCountedWhereTheFirmwareCanNot(t *testing.T) {
	m := newEFI(t)
	m.wantBoot("a", false)
	m.release()
	m.must(m.loader(&fsx.FS{}).TryNext("b"))
	m.readOnly = true
	m.wantBoot("b", true)
	m.wantNames("gw-a.efi", "gw-b+0-1.efi")
	m.wantBoot("a", false)
}

// A cut in the firmware's own rename can leave both names. The next rename then has
// no place to go to: the boot is counted under another name, and none is removed.
func TestBootIsCountedBesideATwin(t *testing.T) {
	m := newEFI(t)
	m.wantBoot("a", false)
	m.release()
	m.must(m.loader(&fsx.FS{}).TryNext("b"))
	m.must(os.Link(m.path("esp/EFI/Linux/gw-b+1.efi"), m.path("esp/EFI/Linux/gw-b+0-1.efi")))
	m.readOnly = true
	m.wantBoot("b", true)
	m.wantNames("gw-a.efi", "gw-b+0-1.efi", "gw-b+0-2.efi")
	m.must(m.loader(&fsx.FS{}).Commit("b"))
	m.wantNames("gw-a.efi", "gw-b+0-2.efi", "gw-b.efi")
	m.wantBoot("b", false)
}

// After a cut in a rename, FAT may have both names on the same data. To remove one
// would destroy the other: nothing of the slot that runs is removed.
func TestTwinOfTheRunningSlotIsLeftAlone(t *testing.T) {
	m := newEFI(t)
	m.wantBoot("a", false)
	m.release()
	l := m.loader(&fsx.FS{})
	m.must(l.TryNext("b"))
	m.wantBoot("b", true)
	m.must(os.Link(m.path("esp/EFI/Linux/gw-b+0-1.efi"), m.path("esp/EFI/Linux/gw-b.efi")))
	m.wantBoot("b", false)
	m.must(l.Commit("b"))
	m.wantNames("gw-a.efi", "gw-b+0-1.efi", "gw-b.efi")
	m.wantBoot("b", false)
	m.release()
	m.must(l.TryNext("a"))
	m.wantBoot("a", true)
	m.wantBoot("b", false)
}

// An empty file in place of the blessed one is what a cut in the rename can leave.
func TestUnreadableTwinIsReplaced(t *testing.T) {
	m := newEFI(t)
	m.wantBoot("a", false)
	m.release()
	l := m.loader(&fsx.FS{})
	m.must(l.TryNext("b"))
	m.wantBoot("b", true)
	m.write("esp/EFI/Linux/gw-b.efi", nil)
	m.must(l.Commit("b"))
	m.wantNames("gw-a.efi", "gw-b.efi")
	m.wantBoot("b", false)
}

// Torn and unreadable files of the spare slot are replaced too.
func TestLeftoversOfTheSpareSlotGo(t *testing.T) {
	m := newEFI(t)
	m.wantBoot("a", false)
	m.release()
	for _, name := range []string{"gw-b.efi", "gw-b+0-1.efi", "gw-b+1.efi", ".gw-b+1.efi.tmp"} {
		m.write("esp/EFI/Linux/"+name, []byte("torn"))
	}
	m.must(m.loader(&fsx.FS{}).TryNext("b"))
	m.wantNames("gw-a.efi", "gw-b+1.efi")
	m.wantBoot("b", true)
}

// What is there already is not written again: an agent that asks twice costs
// nothing.
func TestRepeatedTryNextWritesNothing(t *testing.T) {
	m := newEFI(t)
	m.wantBoot("a", false)
	m.release()
	m.must(m.loader(&fsx.FS{}).TryNext("b"))
	never := &fsx.FS{Hook: func(op, path string) error { return errors.New(op + " " + path) }}
	m.must(m.loader(never).TryNext("b"))
	m.must(m.loader(&fsx.FS{}).Commit("a"))
	m.must(m.loader(never).Commit("a"))
}
