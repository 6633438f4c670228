package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// Serial is what the machine wrote to its serial port, over all its boots.
func (vm *VM) Serial() string {
	raw, err := os.ReadFile(vm.path("serial.log"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		vm.Fatal(err)
	}
	return strings.ReplaceAll(string(raw), "\r", "")
}

// Count is how often the serial port has shown a pattern.
func (vm *VM) Count(pattern string) int {
	return len(regexp.MustCompile(pattern).FindAllString(vm.Serial(), -1))
}

// WaitFor waits until the serial port has shown pattern n times since the machine was
// made.
func (vm *VM) WaitFor(pattern string, n int, limit time.Duration) {
	vm.Helper()
	vm.Until(fmt.Sprintf("the console shows %q, %d times", pattern, n), limit, func() error {
		if vm.Count(pattern) >= n {
			return nil
		}
		return vm.notYet()
	})
}

func (vm *VM) lastLine() string {
	lines := strings.Split(strings.TrimSpace(vm.Serial()), "\n")
	return lines[len(lines)-1]
}

// Run runs a shell command as root on the machine and returns what it printed; the
// test fails if the command does.
func (vm *VM) Run(command string) string {
	vm.Helper()
	out, err := vm.Try(command)
	if err != nil {
		vm.Fatalf("%s: %v\n%s", command, err, out)
	}
	return out
}

// Try runs a shell command as root on the machine. The output has both streams.
func (vm *VM) Try(command string) (string, error) {
	return vm.ssh(nil, command)
}

// Put writes a file on the machine.
func (vm *VM) Put(path string, content []byte) {
	vm.Helper()
	if out, err := vm.ssh(content, "cat >"+quote(path)); err != nil {
		vm.Fatalf("write %s: %v: %s", path, err, out)
	}
}

// Get reads a file of the machine.
func (vm *VM) Get(path string) []byte {
	vm.Helper()
	return []byte(vm.Run("cat " + quote(path)))
}

func quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

func (vm *VM) ssh(stdin []byte, command string) (string, error) {
	if err := vm.failed(); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ssh", append(vm.sshOptions(), "root@127.0.0.1", command)...)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &out
	// The connection's master inherits the pipe: don't wait for its end.
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	return out.String(), err
}

func (vm *VM) sshOptions() []string {
	var args []string
	for _, option := range []string{
		"StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=60", "BatchMode=yes",
		"ServerAliveInterval=15", "ServerAliveCountMax=4",
		"ControlMaster=auto", "ControlPersist=60", "ControlPath=" + vm.path("ssh"),
	} {
		args = append(args, "-o", option)
	}
	return append(args, "-i", vm.key, "-p", fmt.Sprint(vm.port))
}

// hangUp ends the shared connection of ssh.
func (vm *VM) hangUp() {
	_ = exec.Command("ssh", append(vm.sshOptions(), "-O", "exit", "root@127.0.0.1")...).Run() // there may be none
}
