package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// Limits, each at least five times what an idle host with two cores needs.
const (
	bootLimit    = 5 * time.Minute
	silenceLimit = 75 * time.Second // of firmware, after a restart
	commandLimit = 2 * time.Minute
	processLimit = time.Minute
)

// Machine is what a gateway is made of.
type Machine struct {
	Disk string // image of its disk; it is not changed
	// SecureBoot has the firmware refuse what is not signed with the test keys.
	SecureBoot bool
	// Clock is what the machine's clock shows when it starts; zero: the time.
	Clock time.Time
	// Logged logs every write to the disk and every flush, for CrashStates.
	Logged bool
	// API and MQTT are the host's ports of the fleet server, zero if there is none.
	// The machine reaches them as 10.0.2.100:8443 and :8883, and nothing else.
	API, MQTT int
}

// FleetHost is the address under which a machine finds the fleet server.
const (
	FleetHost = "10.0.2.100"
	FleetAPI  = FleetHost + ":8443"
	FleetMQTT = FleetHost + ":8883"
)

// VM is a machine. It is not safe for concurrent use.
type VM struct {
	*Lab
	machine Machine
	dir     string
	key     string // private, for ssh
	port    int    // of ssh on the host
	qemu    *exec.Cmd
	chip    *exec.Cmd
	ended   chan struct{} // closed when qemu has ended
	booted  int           // LAB-UP lines seen before this start
	silent  time.Time     // since when the firmware has said nothing after a restart
	keyless bool          // its firmware has no keys, and so refuses nothing
	flashed bool          // it has another build of the firmware than at first
}

// Boot makes a machine and starts it. It returns when ssh answers.
func (l *Lab) Boot(m Machine) *VM {
	l.Helper()
	vm := l.Assemble(m)
	vm.PowerOn()
	return vm
}

// Assemble makes a machine without starting it.
func (l *Lab) Assemble(m Machine) *VM {
	l.Helper()
	vm := l.newVM(m)
	vm.must(host("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", m.Disk, vm.path("disk.qcow2")))
	vm.must(vm.firmware())
	if m.Logged {
		vm.must(os.WriteFile(vm.path("writes.log"), nil, 0o600))
	}
	_, err := tpmtest.Manufacture(l.Context(), vm.path("chip"))
	vm.must(err)
	return vm
}

func (l *Lab) newVM(m Machine) *VM {
	l.Helper()
	key, err := l.Cache.Key()
	l.must(err)
	dir, err := os.MkdirTemp(l.dir, "vm")
	l.must(err)
	vm := &VM{Lab: l, machine: m, dir: dir, key: key}
	l.Cleanup(vm.end)
	return vm
}

// TPMMaker is the PEM of the authority that vouches for the machine's TPM.
func (vm *VM) TPMMaker() []byte {
	vm.Helper()
	chip, err := tpmtest.Manufacture(vm.Context(), vm.path("chip")) // it is there already
	vm.must(err)
	pem, err := chip.CACertificates()
	vm.must(err)
	return pem
}

func (vm *VM) path(name string) string { return filepath.Join(vm.dir, name) }

// PowerOn starts the machine and waits until ssh answers.
func (vm *VM) PowerOn() {
	vm.Helper()
	vm.Start()
	vm.Up()
}

// Start starts the machine without waiting for anything.
func (vm *VM) Start() {
	vm.Helper()
	vm.booted = vm.Count("LAB-UP")
	vm.must(vm.power())
}

// Up waits until the machine has booted since Start or Reboot.
func (vm *VM) Up() {
	vm.Helper()
	vm.Until("the machine boots", bootLimit, func() error {
		if vm.Count("LAB-UP") > vm.booted {
			return nil
		}
		if vm.Count("LAB-NO-") > 0 {
			return &Dead{"it found no root file system: " + vm.lastLine()}
		}
		return vm.notYet()
	})
	vm.Until("ssh answers", commandLimit, func() error {
		_, err := vm.Try("true")
		return err
	})
}

// notYet says where a machine is that is waited for. One that is stuck is started anew,
// with its TPM, as by its power switch.
func (vm *VM) notYet() error {
	if err := vm.failed(); err != nil {
		return err
	}
	if vm.stuck() {
		vm.Logf("the firmware said nothing for %s after a restart: the emulator is started anew", silenceLimit)
		if err := errors.Join(vm.kill(), vm.power()); err != nil {
			return err
		}
	}
	return fmt.Errorf("the console's last line is %q", vm.lastLine())
}

// stuck reports whether the firmware has said nothing for long after the kernel
// restarted the machine. Some machines that came from a snapshot do so, with the second
// processor asleep: a reset does not help them, another process of the emulator with
// the same disk, variables and TPM does. What logs its writes is left alone: it boots
// from cold, and its log would begin again.
func (vm *VM) stuck() bool {
	if vm.machine.Logged || !strings.Contains(vm.lastLine(), "reboot: Restarting system") {
		vm.silent = time.Time{}
		return false
	}
	if vm.silent.IsZero() {
		vm.silent = time.Now()
	}
	if time.Since(vm.silent) < silenceLimit {
		return false
	}
	vm.silent = time.Time{}
	return true
}

// PowerCut ends the machine at once, its TPM with it. What the disk did not get is
// lost; what the host's kernel has, stays: see CrashStates for the hard kind.
func (vm *VM) PowerCut() {
	vm.Helper()
	vm.must(vm.kill())
}

// SecureBoot switches Secure Boot of a machine that is off and was made with it: the
// same firmware has the keys, or none. Whoever has the machine in front of him can do
// that.
func (vm *VM) SecureBoot(on bool) {
	vm.Helper()
	vm.keyless = !on
	vm.must(vm.firmware())
}

// SetClock decides what the clock of a machine that is off shows when it starts next;
// zero: the time.
func (vm *VM) SetClock(at time.Time) { vm.machine.Clock = at }

// Flash gives a machine that is off another build of its firmware, which keeps the
// variables: with protection by system management mode instead of without.
func (vm *VM) Flash() { vm.flashed = !vm.flashed }

// firmware gives the machine fresh firmware variables.
func (vm *VM) firmware() error {
	vars := "/usr/share/OVMF/OVMF_VARS_4M.fd"
	if vm.machine.SecureBoot && !vm.keyless {
		vars = "/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd"
	}
	return host("qemu-img", "convert", "-f", "raw", "-O", "qcow2", vars, vm.path("vars.qcow2"))
}

// Reboot restarts the machine in order and waits until it is back.
func (vm *VM) Reboot() {
	vm.Helper()
	vm.booted = vm.Count("LAB-UP")
	if out, err := vm.Try("systemctl --no-block reboot"); err != nil {
		vm.Fatalf("systemctl reboot: %v: %s", err, out)
	}
	vm.hangUp()
	vm.Up()
}

// ExpectReboot is called before something that reboots the machine; Up then waits
// for the boot after it.
func (vm *VM) ExpectReboot() { vm.booted = vm.Count("LAB-UP") }

// PowerOff shuts the machine down in order and waits until it is off.
func (vm *VM) PowerOff() {
	vm.Helper()
	vm.Run("systemctl --no-block poweroff")
	select {
	case <-vm.ended:
	case <-time.After(bootLimit):
		vm.Fatal("the machine does not switch itself off")
	}
	vm.must(vm.kill())
}

// end ends the machine after its test.
func (vm *VM) end() {
	if vm.Failed() && vm.qemu != nil {
		vm.collect()
	}
	if err := vm.kill(); err != nil {
		vm.Error(err)
	}
}

// failed returns an error if the machine ended by itself.
func (vm *VM) failed() error {
	if vm.ended == nil {
		return errors.New("the machine is off")
	}
	select {
	case <-vm.ended:
		said, _ := os.ReadFile(vm.path("qemu.log")) // best effort: it only explains
		return &Dead{"the machine ended: " + string(said)}
	default:
		return nil
	}
}
