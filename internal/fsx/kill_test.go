package fsx

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

const killVar = "GATEWARDEN_FSX_KILL_AT"

// TestMain runs as the child of TestPowerCutAtEveryOp when told so.
func TestMain(m *testing.M) {
	at, err := strconv.Atoi(os.Getenv(killVar))
	if err != nil {
		os.Exit(m.Run())
	}
	n := 0
	f := FS{Hook: func(string, string) error {
		if n++; n == at {
			return syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		return nil
	}}
	if err := work(&f, os.Args[len(os.Args)-1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	os.Exit(0)
}

// work makes a folder, writes two versions and appends a line; each time that
// something is durable it says so on standard output.
func work(f *FS, dir string) error {
	dir = filepath.Join(dir, "state", "deep")
	if err := f.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, v := range []string{"1", "2"} {
		if err := f.WriteFile(filepath.Join(dir, "file"), []byte(strings.Repeat(v, 5000)), 0o600); err != nil {
			return err
		}
		fmt.Println("file " + v)
	}
	for _, v := range []string{"1", "2"} {
		if err := f.Append(filepath.Join(dir, "log"), []byte(strings.Repeat(v, 50)+"\n"), 0o600); err != nil {
			return err
		}
		fmt.Println("log " + v)
	}
	return nil
}

// The process dies before its Nth op, for each N until it no longer does. What it
// had reported durable is there, what is there is whole, and the work can be
// done again over the remains.
func TestPowerCutAtEveryOp(t *testing.T) {
	for at := 1; ; at++ {
		dir := t.TempDir()
		cmd := exec.Command(os.Args[0], dir)
		cmd.Env = append(os.Environ(), killVar+"="+strconv.Itoa(at))
		said, err := cmd.Output()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if exit != nil && !exit.Sys().(syscall.WaitStatus).Signaled() {
			t.Fatalf("child: %v: %s", err, exit.Stderr)
		}
		checkRemains(t, at, filepath.Join(dir, "state", "deep"), said)
		if err := work(&FS{}, dir); err != nil {
			t.Errorf("kill at op %d: work again: %v", at, err)
		}
		if exit == nil {
			if at < 15 {
				t.Errorf("only %d ops were killed: the sweep is blind", at)
			}
			return
		}
	}
}

func checkRemains(t *testing.T, at int, dir string, said []byte) {
	t.Helper()
	file, err := os.ReadFile(filepath.Join(dir, "file"))
	whole := err != nil || len(file) == 5000 && bytes.Count(file, file[:1]) == 5000
	if !whole {
		t.Errorf("kill at op %d: half a file: %d bytes", at, len(file))
	}
	for _, v := range []string{"1", "2"} {
		if bytes.Contains(said, []byte("file "+v)) && (err != nil || file[0] < v[0]) {
			t.Errorf("kill at op %d: version %s was durable and is gone", at, v)
		}
		log, _ := os.ReadFile(filepath.Join(dir, "log"))
		if bytes.Contains(said, []byte("log "+v)) && !bytes.Contains(log, []byte(strings.Repeat(v, 50)+"\n")) {
			t.Errorf("kill at op %d: log line %s was durable and is gone", at, v)
		}
	}
}
