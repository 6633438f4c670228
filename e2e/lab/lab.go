package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/e2e/lab/image"
)

// Lab is where one test boots its machines.
type Lab struct {
	testing.TB
	Cache *image.Cache
	dir   string // of this test: disks, sockets, logs
	began time.Time
}

// Open gives the test the lab, once no other test has it. It skips the test unless
// GATEWARDEN_E2E=1, and fails it if a tool is missing.
func Open(t testing.TB) *Lab {
	t.Helper()
	if os.Getenv("GATEWARDEN_E2E") != "1" {
		t.Skip("boots virtual machines for minutes: run it with make e2e, or with GATEWARDEN_E2E=1")
	}
	if missing := missing(); len(missing) > 0 {
		t.Fatalf("the lab lacks %s: run tools/setup.sh e2e", strings.Join(missing, ", "))
	}
	if os.Geteuid() != 0 {
		t.Fatal("the lab builds file systems that belong to root: run it as root")
	}
	cache, err := image.Open()
	if err != nil {
		t.Fatal(err)
	}
	l := &Lab{TB: t, Cache: cache, began: time.Now()}
	l.alone()
	if l.dir, err = os.MkdirTemp("", "gwlab"); err != nil { // short: sockets lie there
		t.Fatal(err)
	}
	t.Cleanup(func() {
		t.Logf("%s took %.0f s", t.Name(), time.Since(l.began).Seconds())
		if err := os.RemoveAll(l.dir); err != nil {
			t.Error(err)
		}
	})
	return l
}

func missing() []string {
	var list []string
	for tool, pkg := range image.Tools() {
		if _, err := exec.LookPath(tool); err == nil {
			continue
		}
		if _, err := os.Stat("/usr/sbin/" + tool); err != nil {
			list = append(list, fmt.Sprintf("%s (package %s)", tool, pkg))
		}
	}
	for path, pkg := range image.Files() {
		if _, err := os.Stat(path); err != nil {
			list = append(list, fmt.Sprintf("%s (package %s)", path, pkg))
		}
	}
	slices.Sort(list)
	return list
}

// alone waits until no other test, of this process or another, uses the lab.
func (l *Lab) alone() {
	l.Helper()
	lock, err := os.OpenFile(filepath.Join(l.Cache.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { lock.Close() })
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		l.Log("another test has the lab; waiting for it")
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		l.Fatalf("lock the lab: %v", err)
	}
	l.began = time.Now()
}

// pace is how often a condition is looked at.
const pace = 200 * time.Millisecond

// Until waits until cond holds, and fails the test with its last error if it does not
// within limit.
func (l *Lab) Until(what string, limit time.Duration, cond func() error) {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), limit)
	defer cancel()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		err := cond()
		if err == nil {
			return
		}
		var fatal *Dead
		if errors.As(err, &fatal) {
			l.Fatalf("%s: %v", what, err)
		}
		select {
		case <-ctx.Done():
			l.Fatalf("%s: not within %s: %v", what, limit, err)
		case <-tick.C:
		}
	}
}

// Dead is the error of a machine that ended by itself: nothing more to wait for.
type Dead struct{ Why string }

func (d *Dead) Error() string { return d.Why }

func (l *Lab) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}
