package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"

	"github.com/gatewarden/gatewarden/agent"
)

// attempts are what a hijacked agent might try, and what an honest one does, in a
// folder with the parts of a machine.
func attempts(at func(string) string) map[string]func() error {
	read := func(path string) func() error {
		return func() error { _, err := os.ReadFile(path); return err }
	}
	write := func(path string) func() error {
		return func() error { return os.WriteFile(path, []byte("x"), 0o600) }
	}
	return map[string]func() error{
		"read the passwords":       read("/etc/shadow"),
		"read another's file":      read(at("other/secret")),
		"write another's file":     write(at("other/secret")),
		"make a file elsewhere":    write(at("other/new")),
		"remove another's file":    func() error { return os.Remove(at("other/removable")) },
		"list the root":            func() error { _, err := os.ReadDir("/"); return err },
		"change a trust document":  write(at("trust/fleet.json")),
		"run a program":            func() error { return exec.Command("/bin/true").Run() },
		"run itself":               func() error { return exec.Command("/proc/self/exe", "-test.list=none").Run() },
		"own: read its state":      read(at("state/file")),
		"own: write its state":     write(at("state/file")),
		"own: replace its state":   func() error { return os.Rename(at("state/file"), at("state/file2")) },
		"own: make a state folder": func() error { return os.Mkdir(at("state/new"), 0o700) },
		"own: read trust":          read(at("trust/fleet.json")),
		"own: read resolv.conf":    read(at("run/resolv.conf")),
		"own: hear of services":    read(at("services/app")),
		"own: read its memory map": read("/proc/self/maps"),
		"own: listen":              func() error { _, err := net.Listen("unix", at("run/agent.sock")); return err },
	}
}

// restrictedMain is the program "restricted": it tries one thing and says
// its name if that worked, closed in like the agent or, with "reader", like the
// process of credentials, or, with "open", as it is.
func restrictedMain() {
	mode, dir := os.Args[1], os.Args[2]
	at := func(name string) string { return filepath.Join(dir, name) }
	o := options{stderr: os.Stderr}
	switch mode {
	case "reader":
		restrictReader(agent.Settings{State: at("state"), TPM: "/dev/tpmrm0"}, o.logger(false))
	case "closed":
		s := agent.Settings{State: at("state"), Trust: at("trust"), Socket: at("run/agent.sock"), TPM: "/dev/tpmrm0", Health: agent.Health{Services: at("services")}}
		restrict(s, at("run/resolv.conf"), o.logger(false))
	}
	if name := os.Args[3]; attempts(at)[name]() == nil {
		fmt.Println(name)
	}
}

// The open process is the control: what fails there proves nothing.
func TestAgentReachesOnlyItsOwnFiles(t *testing.T) {
	if abi, err := ll.LandlockGetABIVersion(); err != nil || abi < 3 {
		t.Skipf("the kernel's Landlock has version %d, 3 is needed: %v", abi, err)
	}
	for name := range attempts(filepath.Clean) {
		closed, reader, open := try(t, "closed", name), try(t, "reader", name), try(t, "open", name)
		switch own := strings.HasPrefix(name, "own: "); {
		case !open && os.Geteuid() == 0:
			t.Errorf("%q does not work anyhow, so it shows nothing", name)
		case own != closed:
			t.Errorf("%q works in the closed process: %t", name, closed)
		case reader != (name == "own: read its state"):
			t.Errorf("%q works in the process of credentials: %t", name, reader)
		}
	}
}

// try says whether the attempt works on a machine of its own.
func try(t *testing.T, mode, name string) bool {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, file := range []string{"state/file", "trust/fleet.json", "run/resolv.conf", "services/app", "other/secret", "other/removable"} {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("it"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Cmd{Path: self, Args: []string{"restricted", mode, dir, name}, Env: os.Environ(), Stderr: os.Stderr}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out)) == name
}
