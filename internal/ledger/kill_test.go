package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/gatewarden/gatewarden/internal/fsx"
)

const killVar = "GATEWARDEN_LEDGER_KILL_AT"

// TestMain runs as the child of TestPowerCutAtEveryOp when told so: it runs
// commands, saying on standard output what it did, and dies before its Nth op.
func TestMain(m *testing.M) {
	at, err := strconv.Atoi(os.Getenv(killVar))
	if err != nil {
		os.Exit(m.Run())
	}
	n := 0
	files := &fsx.FS{Hook: func(string, string) error {
		if n++; n == at {
			return syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		return nil
	}}
	if err := work(files, os.Args[len(os.Args)-1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	os.Exit(0)
}

func work(files *fsx.FS, path string) error {
	l, err := Open(files, path)
	if err != nil {
		return err
	}
	for _, id := range []string{"old", "one", "two"} {
		e := entry(id)
		if id == "old" {
			e.Expires = day(-100)
		}
		err := l.Begin(e)
		if errors.Is(err, ErrSeen) {
			continue
		}
		if err != nil {
			return err
		}
		fmt.Println("ran " + id)
		if err := errors.Join(l.Finish(id, "done"), l.Reported(id)); err != nil {
			return err
		}
	}
	return l.Compact(day(0)) // forgets old
}

func TestPowerCutAtEveryOp(t *testing.T) {
	for at := 1; ; at++ {
		path := filepath.Join(t.TempDir(), "ledger")
		first, killed := child(t, at, path)
		second, _ := child(t, 0, path)
		for _, id := range []string{"ran one\n", "ran two\n"} {
			if n := bytes.Count(append(first, second...), []byte(id)); n > 1 {
				t.Errorf("kill at op %d: %q %d times", at, id, n)
			}
		}
		if !killed {
			if at < 15 {
				t.Errorf("only %d ops were killed: the sweep is blind", at)
			}
			return
		}
	}
}

func child(t *testing.T, at int, path string) (said []byte, killed bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0], path)
	cmd.Env = append(os.Environ(), killVar+"="+strconv.Itoa(at))
	said, err := cmd.Output()
	var exit *exec.ExitError
	if err == nil {
		return said, false
	}
	if !errors.As(err, &exit) || !exit.Sys().(syscall.WaitStatus).Signaled() {
		t.Fatalf("child: %v", err)
	}
	return said, true
}
