package boot_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/update/boot"
	"github.com/gatewarden/gatewarden/update/boot/boottest"
)

func newMachine(t *testing.T) (dir string, m boottest.Machine) {
	t.Helper()
	dir = t.TempDir()
	if err := boot.FileInit(dir, boot.SlotA); err != nil {
		t.Fatal(err)
	}
	return dir, boottest.Machine{
		Loader: func(fs *fsx.FS) boot.Loader {
			return fileLoader(t, boot.Deps{FS: fs, Folder: dir})
		},
		Boot: func() (string, error) { return boot.FileBoot(dir) },
	}
}

func TestFileLoaderConforms(t *testing.T) {
	boottest.Run(t, func(t *testing.T) boottest.Machine {
		_, m := newMachine(t)
		return m
	})
}

// A damaged choice is an error everywhere. A guess could start a slot that nobody
// verified, or count a boot twice.
func TestDamagedChoiceIsNotGuessed(t *testing.T) {
	for name, data := range map[string]string{
		"empty":         "",
		"garbage":       "GRUB environment block",
		"version":       `{"v":2,"default":"a","try":"","tries":0}`,
		"no default":    `{"v":1,"default":"","try":"","tries":0}`,
		"odd default":   `{"v":1,"default":"../b","try":"","tries":0}`,
		"odd trial":     `{"v":1,"default":"a","try":"c","tries":1}`,
		"many tries":    `{"v":1,"default":"a","try":"b","tries":99}`,
		"tries of none": `{"v":1,"default":"a","try":"","tries":1}`,
		"negative":      `{"v":1,"default":"a","try":"b","tries":-1}`,
		"key twice":     `{"v":1,"default":"a","default":"b","try":"","tries":0}`,
		"other letters": `{"v":1,"default":"a","Default":"b","try":"","tries":0}`,
		"too long":      `{"v":1,"default":"a","try":"","tries":0}` + strings.Repeat(" ", 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			dir, m := newMachine(t)
			if _, err := m.Boot(); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "loader.json"), []byte(data), 0o644); err != nil {
				t.Fatal(err)
			}
			l := m.Loader(&fsx.FS{})
			if l.Probe() == nil {
				t.Error("Probe accepts it")
			}
			if _, _, err := l.Booted(); err == nil {
				t.Error("Booted accepts it")
			}
			if l.TryNext("b") == nil || l.Commit("a") == nil {
				t.Error("it is written over")
			}
			if slot, err := boot.FileBoot(dir); err == nil {
				t.Errorf("slot %q boots", slot)
			}
		})
	}
}

func TestBootedSlotIsNotGuessed(t *testing.T) {
	dir, m := newMachine(t)
	if _, _, err := m.Loader(&fsx.FS{}).Booted(); err == nil {
		t.Error("a machine that never booted says what runs")
	}
	for _, data := range []string{"", "a", `{"v":1,"slot":"c"}`, `{"v":7,"slot":"a"}`} {
		if err := os.WriteFile(filepath.Join(dir, "current"), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
		if slot, _, err := m.Loader(&fsx.FS{}).Booted(); err == nil {
			t.Errorf("%q: slot %q is said to run", data, slot)
		}
	}
}

func fileLoader(t *testing.T, d boot.Deps) boot.Loader {
	t.Helper()
	for _, l := range boot.All(d) {
		if l.Name == "file" {
			return l.Loader
		}
	}
	t.Fatal("the file loader is not in the list")
	return nil
}

func TestDetectFindsTheLoaderThatBooted(t *testing.T) {
	dir, m := newMachine(t)
	l, err := boot.Detect(boot.Deps{FS: &fsx.FS{}, Folder: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Boot(); err != nil {
		t.Fatal(err)
	}
	if slot, _, err := l.Booted(); slot != "a" || err != nil {
		t.Errorf("slot %q, %v", slot, err)
	}
	if _, err := boot.Detect(boot.Deps{FS: &fsx.FS{}, Folder: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "file: ") {
		t.Errorf("error without a loader is %v", err)
	}
}

func TestLoaderWithoutFolderDoesNothing(t *testing.T) {
	l := fileLoader(t, boot.Deps{})
	if l.Probe() == nil || l.Commit("a") == nil || l.TryNext("b") == nil {
		t.Error("works without a folder")
	}
}

func TestPlayedFirmwareKeepsItsCount(t *testing.T) {
	for n := 1; ; n++ {
		dir, m := newMachine(t)
		if _, err := m.Boot(); err != nil {
			t.Fatal(err)
		}
		if err := m.Loader(&fsx.FS{}).TryNext("b"); err != nil {
			t.Fatal(err)
		}
		steps := 0
		_, err := boot.BootWith(&fsx.FS{Hook: func(string, string) error {
			if steps++; steps == n {
				return errors.New("the power is cut")
			}
			return nil
		}}, dir)
		if err == nil && steps < n {
			return
		}
		slot, err := m.Boot()
		if err != nil || slot != "a" && slot != "b" {
			t.Fatalf("cut at step %d: slot %q, %v", n, slot, err)
		}
		if slot, err = m.Boot(); err != nil || slot != "a" {
			t.Fatalf("cut at step %d: slot %q boots in the end, %v", n, slot, err)
		}
	}
}
