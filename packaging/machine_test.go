package packaging_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/bench/rig"
)

const (
	suite = "bookworm"
	// What a small Debian has beside apt.
	parts     = "systemd,systemd-sysv,udev,dbus,util-linux"
	patience  = 2 * time.Minute // for anything that takes seconds
	firstTime = 15 * time.Minute
)

// scratch leaves out tests that install packages, unless they are asked for; then
// a missing tool is a fault.
func scratch(t *testing.T, tools ...string) {
	t.Helper()
	if os.Getenv("GATEWARDEN_PACKAGES") == "" {
		t.Skip("installs packages in a scratch system: make packages-test")
	}
	if os.Geteuid() != 0 {
		t.Fatal("only root can make a scratch system")
	}
	for _, tool := range append(tools, "mmdebstrap", "tar") {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%v: tools/setup.sh packages installs it", err)
		}
	}
}

// debs and rpms are the folders of the packages of release 1.0.0 and 1.1.0, built
// once.
var (
	debs = sync.OnceValues(func() ([2]string, error) { return releases("deb") })
	rpms = sync.OnceValues(func() ([2]string, error) { return releases("rpm") })
)

func releases(format string) (dirs [2]string, err error) {
	for i, version := range []string{"v1.0.0", "v1.1.0"} {
		dirs[i] = filepath.Join(os.Getenv("GATEWARDEN_PACKAGES"), format+version)
		cmd := exec.Command("go", "run", "./packaging/build", "-arch", architecture(), "-format", format, "-version", version, "-out", dirs[i])
		cmd.Dir = ".."
		if out, err := cmd.CombinedOutput(); err != nil {
			return dirs, fmt.Errorf("build packages: %w\n%s", err, out)
		}
	}
	return dirs, nil
}

// architecture is this machine's, by Debian's name.
func architecture() string {
	if runtime.GOARCH == "arm" {
		return "armhf"
	}
	return runtime.GOARCH
}

// TestMain gives the packages a folder, if they are asked for.
func TestMain(m *testing.M) {
	if os.Getenv("GATEWARDEN_PACKAGES") == "" {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "gatewarden-packages")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Setenv("GATEWARDEN_PACKAGES", dir)
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// packages returns the files of one program and kind, of 1.0.0 and 1.1.0.
func packages(t *testing.T, pattern string) (first, second string) {
	t.Helper()
	built := debs
	if filepath.Ext(pattern) == ".rpm" {
		built = rpms
	}
	dirs, err := built()
	if err != nil {
		t.Fatal(err)
	}
	var files [2]string
	for i, dir := range dirs {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(found) != 1 {
			t.Fatalf("%s in %s: %v", pattern, dir, found)
		}
		files[i] = found[0]
	}
	return files[0], files[1]
}

// system unpacks a small Debian. It is made once and kept in the user's cache.
func system(t *testing.T) (root string) {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	key := sha256.Sum256([]byte(suite + parts))
	tar := filepath.Join(cache, "gatewarden", fmt.Sprintf("debian-%x.tar", key[:6]))
	if _, err := os.Stat(tar); err != nil {
		if err := os.MkdirAll(filepath.Dir(tar), 0o755); err != nil {
			t.Fatal(err)
		}
		command(t, firstTime, "mmdebstrap", "--variant=minbase", "--include="+parts, suite, tar+".new.tar")
		if err := os.Rename(tar+".new.tar", tar); err != nil {
			t.Fatal(err)
		}
	}
	// Not t.TempDir: the names of sockets in it must be short.
	if root, err = os.MkdirTemp("", "gwm"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	command(t, patience, "tar", "-xf", tar, "-C", root)
	write(t, filepath.Join(root, "etc/hosts"), "127.0.0.1 localhost\n")
	return root
}

func command(t *testing.T, limit time.Duration, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// machine is a booted Debian in a container: its systemd starts the units that
// are installed, with all that they ask for.
type machine struct {
	t       *testing.T
	root    string
	leader  string // its first process, seen from here
	console string // file
}

// boot starts a machine; bind is a folder of this one, to be seen at /host.
func boot(t *testing.T, bind string) *machine {
	t.Helper()
	m := &machine{t: t, root: system(t)}
	args := []string{
		"--register=no", "--keep-unit", "--directory=" + m.root, "--boot", "--private-network", "--console=read-only",
		// nspawn's own filter is older than Landlock and does without adjtimex.
		"--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self adjtimex",
	}
	if bind != "" {
		args = append(args, "--bind="+bind+":/host")
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "console"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	m.console = log.Name()
	cmd := exec.Command("systemd-nspawn", args...)
	cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			m.leave()
		}
		m.stop(cmd)
	})
	m.await("boot", func() error {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		if err != nil || len(strings.Fields(string(children))) != 1 {
			return fmt.Errorf("no first process yet: %s, %w", children, errors.Join(err, content(m.console)))
		}
		m.leader = strings.Fields(string(children))[0]
		out, err := m.try("systemctl", "is-system-running")
		if state := strings.TrimSpace(out); state == "running" || state == "degraded" {
			return nil
		}
		return fmt.Errorf("%s: %w", out, err)
	})
	return m
}

// content is the content of a file as an error, for what explains a failure.
func content(path string) error {
	text, err := os.ReadFile(path)
	return errors.Join(errors.New(string(text)), err)
}

// leave shows what the machine said, when a test failed.
func (m *machine) leave() {
	journal, err := m.try("journalctl", "--no-pager", "-n", "200")
	m.t.Logf("journal (%v):\n%s\nconsole:\n%v", err, journal, content(m.console))
}

func (m *machine) stop(cmd *exec.Cmd) {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	_ = cmd.Wait() // it was told to end
}

// try runs a program in the machine.
func (m *machine) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	env := []string{"-t", m.leader, "-a", "-r", "-w", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	out, err := exec.CommandContext(ctx, "nsenter", append(env, args...)...).CombinedOutput()
	return string(out), err
}

func (m *machine) run(args ...string) string {
	m.t.Helper()
	out, err := m.try(args...)
	if err != nil {
		m.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// install puts packages of this machine into that one.
func (m *machine) install(files ...string) string {
	m.t.Helper()
	args := []string{"dpkg", "--install"}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			m.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(m.root, "root", filepath.Base(file)), data, 0o644); err != nil {
			m.t.Fatal(err)
		}
		args = append(args, "/root/"+filepath.Base(file))
	}
	out := m.run(args...)
	for _, file := range files {
		os.Remove(filepath.Join(m.root, "root", filepath.Base(file)))
	}
	return out
}

func (m *machine) property(unit, name string) string {
	m.t.Helper()
	return strings.TrimSpace(m.run("systemctl", "show", "--property="+name, "--value", unit))
}

func (m *machine) await(what string, try func() error) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	if err := rig.AwaitEvery(ctx, 100*time.Millisecond, what, try); err != nil {
		m.t.Fatal(err)
	}
}

// expect waits until a program in the machine prints text.
func (m *machine) expect(text string, args ...string) {
	m.t.Helper()
	m.await(text, func() error {
		if out, err := m.try(args...); !strings.Contains(out, text) {
			return fmt.Errorf("%s printed: %s (%w)", args[0], out, errors.Join(err))
		}
		return nil
	})
}
