package fsx

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func TestWriteFileReplacesWithExactMode(t *testing.T) {
	var f FS
	path := filepath.Join(t.TempDir(), "state")
	for i, perm := range []os.FileMode{0o600, 0o666, 0o640} {
		want := []byte(strings.Repeat("x", 3-i))
		if err := f.WriteFile(path, want, perm); err != nil {
			t.Fatal(err)
		}
		got, err := f.ReadFile(path, 3)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("read %q, %v; want %q", got, err, want)
		}
		info, _ := os.Stat(path)
		if info.Mode().Perm() != perm {
			t.Errorf("mode %v, want %v", info.Mode().Perm(), perm)
		}
	}
	if names := entries(t, filepath.Dir(path)); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
}

func TestEveryOpCanFailAndLeavesOldOrNew(t *testing.T) {
	boom := errors.New("boom")
	for _, op := range []string{OpCreate, OpWrite, OpSync, OpRename, OpSyncDir} {
		path := filepath.Join(t.TempDir(), "state")
		var f FS
		if err := f.WriteFile(path, []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		f.Hook = func(o, _ string) error {
			if o == op {
				return boom
			}
			return nil
		}
		if err := f.WriteFile(path, []byte("new"), 0o600); !errors.Is(err, boom) {
			t.Errorf("%s: error is %v, want boom", op, err)
		}
		want := "old"
		if op == OpSyncDir {
			want = "new" // renamed already: whole, but not yet known to be durable
		}
		if got, _ := os.ReadFile(path); string(got) != want {
			t.Errorf("%s: file holds %q, want %q", op, got, want)
		}
		if names := entries(t, filepath.Dir(path)); len(names) != 1 {
			t.Errorf("%s: left behind %v", op, names)
		}
	}
}

// FAT puts a renamed file's size on the disk when the file is synced, not the folder.
func TestRenamedFileIsSyncedBeforeItsFolder(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "image")
	var ops []string
	f := FS{Hook: func(op, _ string) error { ops = append(ops, op); return nil }}
	if err := f.WriteFrom(path, strings.NewReader("whole"), 0o600); err != nil {
		t.Fatal(err)
	}
	if want := []string{OpCreate, OpWrite, OpSync, OpRename, OpSync, OpSyncDir}; !slices.Equal(ops, want) {
		t.Errorf("WriteFrom did %v, want %v", ops, want)
	}
	ops = nil
	if err := f.Rename(path, path+"2"); err != nil {
		t.Fatal(err)
	}
	if want := []string{OpRename, OpSync, OpSyncDir}; !slices.Equal(ops, want) {
		t.Errorf("Rename did %v, want %v", ops, want)
	}
	if got, err := f.ReadFile(path+"2", 5); err != nil || string(got) != "whole" {
		t.Errorf("file holds %q, %v", got, err)
	}
	sub := filepath.Join(dir, "sub")
	if err := errors.Join(f.MkdirAll(sub, 0o700), f.Rename(sub, sub+"2")); err != nil {
		t.Errorf("rename of a folder: %v", err)
	}
}

func TestFailedAppendIsCutBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	var f FS
	if err := f.Append(path, []byte("one\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	for _, op := range []string{OpCreate, OpWrite, OpSync} {
		f.Hook = func(o, _ string) error {
			if o == op {
				return boom
			}
			return nil
		}
		if err := f.Append(path, []byte("two\n"), 0o600); !errors.Is(err, boom) {
			t.Errorf("%s: error is %v, want boom", op, err)
		}
		if got, _ := os.ReadFile(path); string(got) != "one\n" {
			t.Errorf("%s: file holds %q", op, got)
		}
	}
}

func TestFirstAppendSyncsTheFolderEvenAfterACrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	boom := errors.New("boom")
	f := FS{Hook: func(op, _ string) error {
		if op == OpWrite {
			return boom
		}
		return nil
	}}
	if err := f.Append(path, []byte("x"), 0o600); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	synced := false
	f.Hook = func(op, _ string) error { synced = synced || op == OpSyncDir; return nil }
	if err := f.Append(path, []byte("x"), 0o600); err != nil || !synced {
		t.Errorf("append to the empty file: %v, folder synced: %v", err, synced)
	}
}

// An attacker with write access to a state folder plants a link at the target or
// at the temporary name; what it points to must stay as it is.
func TestPlantedSymlinkIsNotFollowed(t *testing.T) {
	for _, name := range []string{"state", ".state.tmp"} {
		for _, kind := range []string{"symlink", "dangling", "hardlink", "pipe"} {
			t.Run(name+" "+kind, func(t *testing.T) { plant(t, name, kind) })
		}
	}
}

func plant(t *testing.T, name, kind string) {
	var f FS
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(outside, []byte("victim"), 0o644); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, name)
	plants := map[string]func() error{
		"symlink":  func() error { return os.Symlink(outside, at) },
		"dangling": func() error { return os.Symlink(outside+"-absent", at) },
		"hardlink": func() error { return os.Link(outside, at) },
		"pipe":     func() error { return syscall.Mkfifo(at, 0o600) },
	}
	if err := plants[kind](); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "state")
	if _, err := f.ReadFile(path, 100); name == "state" && kind != "hardlink" && !errors.Is(err, ErrDamaged) {
		t.Errorf("read through a %s: %v, want ErrDamaged", kind, err)
	}
	if name == "state" && kind != "hardlink" {
		if err := f.Append(path, []byte("x"), 0o600); !errors.Is(err, ErrDamaged) {
			t.Errorf("append through a %s: %v, want ErrDamaged", kind, err)
		}
	}
	if err := f.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := f.ReadFile(path, 100); err != nil || string(got) != "mine" {
		t.Errorf("state is %q, %v", got, err)
	}
	if got, _ := os.ReadFile(outside); string(got) != "victim" {
		t.Errorf("the victim was overwritten: %q", got)
	}
	if _, err := os.Lstat(outside + "-absent"); err == nil {
		t.Error("a file was made through a dangling link")
	}
}

func TestReadRefusesTooLargeAbsentAndFolder(t *testing.T) {
	var f FS
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	if _, err := f.ReadFile(path, 4); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	if err := f.WriteFile(path, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadFile(path, 4); !errors.Is(err, ErrDamaged) {
		t.Errorf("too large: %v", err)
	}
	if _, err := f.ReadFile(dir, 4); !errors.Is(err, ErrDamaged) {
		t.Errorf("folder: %v", err)
	}
}

func TestDamagedJSONIsSaidToBeDamaged(t *testing.T) {
	var f FS
	path := filepath.Join(t.TempDir(), "state.json")
	type state struct {
		N int `json:"n"`
	}
	if err := f.WriteJSON(path, state{N: 7}, 0o600); err != nil {
		t.Fatal(err)
	}
	whole, _ := os.ReadFile(path)
	later := bytes.Replace(whole, []byte("{"), []byte(`{"of_a_later_release":[{"a":1}],`), 1)
	for name, data := range map[string][]byte{"as written": whole, "of a later release": later} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		got := state{}
		if err := f.ReadJSON(path, 100, &got); err != nil || got.N != 7 {
			t.Fatalf("%s: %+v, %v", name, got, err)
		}
	}
	for name, data := range map[string][]byte{
		"empty": {}, "truncated": whole[:len(whole)/2], "zeroed": make([]byte, len(whole)),
		"twice": append(bytes.Clone(whole), whole...), "key in other letters": []byte(`{"N":7}`),
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		got := state{N: 3}
		if err := f.ReadJSON(path, 100, &got); !errors.Is(err, ErrDamaged) || got.N != 3 {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestConcurrentWritersNeverMix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			data := bytes.Repeat([]byte{byte('a' + i)}, 1000*(i+1))
			for range 10 {
				if err := new(FS).WriteFile(path, data, 0o600); err != nil {
					t.Error(err)
				}
				got, err := new(FS).ReadFile(path, 1<<20)
				if err != nil || len(got) == 0 || len(got)%1000 != 0 || bytes.Count(got, got[:1]) != len(got) {
					t.Errorf("mixed file: %d bytes, %v", len(got), err)
				}
			}
		})
	}
	wg.Wait()
}

func TestMkdirAllRemoveRename(t *testing.T) {
	var ops []string
	f := FS{Hook: func(op, path string) error { ops = append(ops, op); return nil }}
	dir := filepath.Join(t.TempDir(), "a", "b")
	if err := f.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(dir); info == nil || info.Mode().Perm() != 0o750 {
		t.Errorf("folder is %v", info)
	}
	if got := fmt.Sprint(ops); got != "[mkdir syncdir mkdir syncdir]" {
		t.Errorf("ops %v", got)
	}
	from, to := filepath.Join(dir, "from"), filepath.Join(filepath.Dir(dir), "to")
	if err := f.WriteFile(from, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.MkdirAll(from, 0o700); err == nil {
		t.Error("made a folder over a file")
	}
	if err := f.Rename(from, to); err != nil {
		t.Fatal(err)
	}
	if err := f.Remove(to); err != nil {
		t.Fatal(err)
	}
	if err := f.Remove(to); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("second remove: %v", err)
	}
}

func TestUnwritableFolderIsOneClearError(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	if err := new(FS).WriteFile(filepath.Join(dir, "state"), nil, 0o600); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("error is %v", err)
	}
}

func TestTruncateCutsAndFollowsNoLink(t *testing.T) {
	var f FS
	dir := t.TempDir()
	path, link := filepath.Join(dir, "log"), filepath.Join(dir, "link")
	if err := errors.Join(f.WriteFile(path, []byte("12345"), 0o600), os.Symlink(path, link)); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(link, 0); !errors.Is(err, ErrDamaged) {
		t.Errorf("through a link: %v", err)
	}
	if err := f.Truncate(path, 3); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "123" {
		t.Errorf("file holds %q", got)
	}
}
