package lab

import (
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// own is the source that decides what a snapshot holds besides the image.
//
//go:embed qemu.go golden.go
var own embed.FS

// Golden returns a machine that has just booted from m's disk, in seconds: machine and
// TPM come from a snapshot, which is made by the first test that asks for it.
// All of them share EK and machine id. The machine's clock is set.
func (l *Lab) Golden(m Machine) *VM {
	l.Helper()
	golden, err := l.golden(m)
	l.must(err)
	vm := l.newVM(m)
	vm.must(host("cp", "-r", "--sparse=always", golden+"/.", vm.dir))
	vm.must(vm.power("-loadvm", snapshot))
	vm.Until("the restored machine answers", commandLimit, func() error {
		out, err := vm.Try(fmt.Sprintf("date -s @%d", time.Now().Unix()))
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	return vm
}

func (l *Lab) golden(m Machine) (string, error) {
	version, err := exec.Command("qemu-system-x86_64", "--version").Output()
	if err != nil {
		return "", err
	}
	disk, err := os.Stat(m.Disk)
	if err != nil {
		return "", err
	}
	// A disk that was built again is another one, with other identifiers.
	key := []any{m.Disk, disk.ModTime(), m.SecureBoot, string(version)}
	for _, name := range []string{"qemu.go", "golden.go"} {
		text, err := own.ReadFile(name)
		if err != nil {
			return "", err
		}
		key = append(key, text)
	}
	return l.Cache.Get("golden", key, func(dir string) error {
		vm := l.Boot(m)
		vm.Until("the machine has booted whole", bootLimit, func() error {
			out, err := vm.Try("systemctl is-system-running; systemctl list-jobs")
			if err != nil && out == "" || !settled(out) {
				return fmt.Errorf("%v: %s", err, out)
			}
			return nil
		})
		vm.Run("sync")
		vm.hangUp()
		if err := vm.monitor("savevm " + snapshot); err != nil {
			return err
		}
		if err := vm.kill(); err != nil {
			return err
		}
		var errs []error
		for _, name := range []string{"disk.qcow2", "vars.qcow2", "chip", "serial.log"} {
			errs = append(errs, host("cp", "-r", "--sparse=always", vm.path(name), filepath.Join(dir, name)))
		}
		return errors.Join(append(errs, os.RemoveAll(vm.dir))...)
	})
}

// settled says whether systemd has started what it wanted to: a failed unit is not
// the lab's to judge.
func settled(state string) bool {
	return len(state) > 7 && (state[:7] == "running" || state[:8] == "degraded")
}
