package doctor

import (
	"context"
	"fmt"
	"os"
	"strings"
)

// kernel is whether the limits of the processes hold.
func kernel() *Check {
	return &Check{
		Name: "kernel", About: "what the kernel and systemd bring for the limits of the processes", For: "all",
		Cases: `
old advice all
This kernel is older than what was tried; limits of the units may be missing.
Use Linux 5.10 or later; 5.13 for Landlock.

no-landlock advice all
The agent can't close the file system to itself; only its unit does.
Linux 5.13 or later with CONFIG_SECURITY_LANDLOCK, and "landlock" among CONFIG_LSM or in lsm= on the kernel command line.

limits advice all
systemd leaves limits of the units out without a word where the kernel lacks what they need: a process that is broken into could do more.
Build the kernel with these options; docs/install.md lists them.

no-systemd advice all
systemd is not this machine's init: nothing starts agent and helper within their limits, and no socket starts the helper.
Use an image with systemd, or start "gatewarden agent" and "gatewarden helper --listen" by your own init, with limits of your own.
`,
		Look: func(_ context.Context, m *Machine, n *notes) {
			release, err := m.word("/proc/sys/kernel/osrelease")
			if err != nil {
				n.unseen("read the kernel's version", err)
			} else if older(release, 5, 10) {
				n.is("old", "Linux %s", release)
			}
			abi, err := m.Kernel.Landlock()
			if err != nil {
				n.is("no-landlock", "Landlock: %v", err)
			}
			if missing := m.missingLimits(); len(missing) > 0 {
				n.is("limits", "the kernel lacks %s", strings.Join(missing, ", "))
			}
			if _, err := os.Stat(m.at("/run/systemd/system")); err != nil {
				n.is("no-systemd", "there is no /run/systemd/system")
			}
			n.ok("Linux %s, Landlock %d, systemd", release, abi)
		},
	}
}

// missingLimits names kernel options by what they leave in /proc and /sys.
func (m *Machine) missingLimits() (missing []string) {
	status, _ := m.read("/proc/self/status")
	if !strings.Contains(string(status), "\nSeccomp_filters:") && !strings.Contains(string(status), "\nSeccomp:") {
		missing = append(missing, "SECCOMP_FILTER")
	}
	for _, one := range [][2]string{
		{"/proc/self/ns/user", "USER_NS"}, {"/proc/self/ns/net", "NET_NS"}, {"/proc/self/ns/pid", "PID_NS"}, {"/proc/self/ns/ipc", "IPC_NS"},
		{"/proc/self/cgroup", "CGROUPS"}, {"/proc/sys/kernel/unprivileged_bpf_disabled", "BPF_SYSCALL"},
	} {
		if _, err := os.Lstat(m.at(one[0])); err != nil {
			missing = append(missing, one[1])
		}
	}
	return missing
}

// older compares the first two numbers of a version.
func older(release string, major, minor int) bool {
	var a, b int
	if n, _ := fmt.Sscanf(release, "%d.%d", &a, &b); n != 2 {
		return false
	}
	return a < major || a == major && b < minor
}

// watchdog is whether a machine that hangs comes back.
func watchdog() *Check {
	return &Check{
		Name: "watchdog", About: "a hardware watchdog", For: "update",
		Cases: `
none advice update
A release that hangs needs a hand at the power switch before the old one comes back.
Build in the driver of the board's watchdog and set RuntimeWatchdogSec= in systemd's system.conf. softdog helps only while the kernel lives.
`,
		Look: func(_ context.Context, m *Machine, n *notes) {
			for _, path := range []string{"/dev/watchdog0", "/dev/watchdog"} {
				if _, err := os.Stat(m.at(path)); err == nil {
					n.ok("there is %s", path)
					return
				}
			}
			n.is("none", "there is no /dev/watchdog")
		},
	}
}
