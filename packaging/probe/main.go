// Command probe stands in for the agent in its unit and tries what a hijacked one
// might try.
//
// Its promise: it changes nothing that it can't put back, and prints one line of
// JSON that says of each attempt whether it worked ("") or why not. Built static
// and put in the place of /usr/bin/gatewarden, it is run by the installed unit
// itself; run by root outside of it, it shows which attempts mean something.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

func main() {
	results := make(map[string]string)
	for name, try := range attempts("/var/lib/gatewarden") {
		results[name] = ""
		if err := try(); err != nil {
			results[name] = err.Error()
		}
	}
	line, err := json.Marshal(results)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("probe: %s\n", line)
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady) // for a unit of Type=notify
}

// attempts begin with "own: " where the agent must succeed.
func attempts(state string) map[string]func() error {
	all := map[string]func() error{
		"read /etc/shadow":           func() error { _, err := os.ReadFile("/etc/shadow"); return err },
		"write to /etc":              func() error { return put("/etc/gatewarden/probe") },
		"write to /usr":              func() error { return put("/usr/probe") },
		"run a program":              func() error { return exec.Command("/bin/true").Run() },
		"open a block device":        openBlockDevice,
		"make a device":              func() error { return device(filepath.Join(state, "disk")) },
		"mount":                      mount,
		"make a namespace":           func() error { return unix.Unshare(unix.CLONE_NEWUTS) },
		"see other processes":        func() error { _, err := os.Stat("/proc/1/status"); return err },
		"read the kernel's settings": func() error { _, err := os.ReadFile("/proc/sys/kernel/ostype"); return err },
		"map writable code":          mapCode,
		"own: write its state":       func() error { return put(filepath.Join(state, "probe-file")) },
		"own: write its socket":      func() error { return put("/run/gatewarden/probe") },
		"own: read trust":            func() error { _, err := os.ReadDir("/etc/gatewarden/trust"); return err },
		"own: read the clock's state": func() error {
			_, err := unix.Adjtimex(&unix.Timex{})
			return err
		},
	}
	for _, folder := range []string{state, "/run/gatewarden", "/tmp", "/var/tmp", "/dev/shm"} {
		all["run what it wrote to "+folder] = func() error { return runCopy(filepath.Join(folder, "probe-copy")) }
	}
	for name, family := range map[string]int{
		"own: socket AF_INET": unix.AF_INET, "own: socket AF_INET6": unix.AF_INET6, "own: socket AF_UNIX": unix.AF_UNIX,
		"socket AF_NETLINK": unix.AF_NETLINK, "socket AF_PACKET": unix.AF_PACKET, "socket AF_VSOCK": unix.AF_VSOCK, "socket AF_ALG": unix.AF_ALG,
		"socket AF_BLUETOOTH": unix.AF_BLUETOOTH, "socket AF_CAN": unix.AF_CAN,
	} {
		all[name] = func() error { return socket(family) }
	}
	return all
}

func put(path string) error {
	if err := os.WriteFile(path, []byte("probe"), 0o600); err != nil {
		return err
	}
	return os.Remove(path)
}

// runCopy runs a copy of a program from a folder that may be written.
func runCopy(path string) error {
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	defer os.Remove(path)
	if err := os.WriteFile(path, program, 0o700); err != nil {
		return err
	}
	cmd := exec.Command(path)
	if err := cmd.Start(); err != nil {
		return err
	}
	_ = cmd.Process.Kill() // it ran: that is all
	_ = cmd.Wait()
	return nil
}

// openBlockDevice tries those that the kernel has, by a node of its own where /dev
// shows none.
func openBlockDevice() error {
	disks, err := filepath.Glob("/sys/class/block/*")
	if err != nil || len(disks) == 0 {
		return errors.New("the machine has none")
	}
	for _, disk := range disks {
		f, openErr := os.Open(filepath.Join("/dev", filepath.Base(disk)))
		if openErr == nil {
			return f.Close()
		}
		err = openErr
	}
	return err
}

func device(path string) error {
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(7, 0))); err != nil {
		return err
	}
	return os.Remove(path)
}

func mount() error {
	if err := unix.Mount("none", "/mnt", "tmpfs", 0, ""); err != nil {
		return err
	}
	return unix.Unmount("/mnt", 0)
}

func mapCode() error {
	memory, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	return unix.Munmap(memory)
}

func socket(family int) error {
	for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_RAW, unix.SOCK_SEQPACKET} {
		fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			return unix.Close(fd)
		}
		if !errors.Is(err, unix.EPROTONOSUPPORT) && !errors.Is(err, unix.ESOCKTNOSUPPORT) && !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	return errors.New("the kernel has no such socket")
}
