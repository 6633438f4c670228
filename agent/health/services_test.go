package health

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestWorstProgramIsTheFinding(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "health")
	look := func(want string) {
		t.Helper()
		status, summary := services(folder).Run(t.Context())
		if got := status + ": " + summary; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	say := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	look("ok: no program reports")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	look("ok: no program reports")
	say("a", "ok serving\nand more")
	say("b", "ok")
	look("ok: 2 programs say ok")
	say("b", "warning slow disk\n")
	look("warning: b: slow disk")
	say("a", "critical schema is 2, 3 is needed")
	look("critical: a: schema is 2, 3 is needed")
}

// TestOddFilesAreUnknownAndNotFollowed: a link, a pipe, a folder, too much, no word.
func TestOddFilesAreUnknownAndNotFollowed(t *testing.T) {
	for name, lay := range map[string]func(path string) error{
		"link":     func(p string) error { return os.Symlink("/proc/self/status", p) },
		"pipe":     func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"folder":   func(p string) error { return os.Mkdir(p, 0o755) },
		"too long": func(p string) error { return os.WriteFile(p, []byte("ok "+strings.Repeat("x", maxService)), 0o644) },
		"no word":  func(p string) error { return os.WriteFile(p, []byte("fine\n"), 0o644) },
		"empty":    func(p string) error { return os.WriteFile(p, nil, 0o644) },
	} {
		folder := t.TempDir()
		if err := lay(filepath.Join(folder, "x")); err != nil {
			t.Fatal(err)
		}
		if status, summary := services(folder).Run(t.Context()); status != Unknown || !strings.HasPrefix(summary, "x: ") {
			t.Errorf("%s: %s, %s", name, status, summary)
		}
	}
	folder := t.TempDir()
	for n := range maxServices + 1 {
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprint(n)), []byte("ok"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if status, summary := services(folder).Run(t.Context()); status != Unknown {
		t.Errorf("too many: %s, %s", status, summary)
	}
}
