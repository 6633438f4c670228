package lab

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// snapshot is the name of the one that golden disks carry.
const snapshot = "golden"

// power starts TPM and machine; with extra "-loadvm" from a snapshot.
func (vm *VM) power(extra ...string) error {
	var err error
	if vm.chip, err = vm.spawn("swtpm", "swtpm", "socket", "--tpm2", "--tpmstate", "dir="+vm.path("chip/tpm"), "--ctrl", "type=unixio,path="+vm.path("tpm.sock")); err != nil {
		return err
	}
	if err := appear(vm.path("tpm.sock")); err != nil {
		return err
	}
	if vm.port, err = freePort(); err != nil {
		return err
	}
	vm.ended = make(chan struct{})
	if vm.qemu, err = vm.spawn("qemu", "qemu-system-x86_64", append(vm.line(), extra...)...); err != nil {
		return err
	}
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait() // failed says how it ended
		close(ended)
	}(vm.qemu, vm.ended)
	return appear(vm.path("qmp.sock"))
}

// line is QEMU's command line.
func (vm *VM) line() []string {
	m := vm.machine
	code, smm := "/usr/share/OVMF/OVMF_CODE_4M.fd", "off"
	if m.SecureBoot != vm.flashed {
		code, smm = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "on"
	}
	network := "user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:" + fmt.Sprint(vm.port) + "-:22"
	if m.API != 0 {
		network += fmt.Sprintf(",guestfwd=tcp:%s-cmd:socat - TCP:127.0.0.1:%d,guestfwd=tcp:%s-cmd:socat - TCP:127.0.0.1:%d", FleetAPI, m.API, FleetMQTT, m.MQTT)
	}
	args := []string{
		"-machine", "q35,smm=" + smm, "-accel", "tcg,thread=multi", "-cpu", "max,la57=off", "-smp", "2", "-m", "512",
		"-global", "driver=cfi.pflash01,property=secure,value=" + smm, "-global", "ICH9-LPC.disable_s3=1",
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=" + code,
		"-drive", "if=pflash,format=qcow2,unit=1,file=" + vm.path("vars.qcow2"),
		"-chardev", "socket,id=tpm,path=" + vm.path("tpm.sock"), "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm0",
		"-netdev", network, "-device", "virtio-net-pci,id=net0,netdev=n0,romfile=",
		"-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0",
		"-chardev", "file,id=serial,append=on,path=" + vm.path("serial.log"), "-serial", "chardev:serial",
		"-qmp", "unix:" + vm.path("qmp.sock") + ",server=on,wait=off", "-display", "none", "-vga", "none", "-nodefaults", "-no-user-config",
	}
	if !m.Clock.IsZero() {
		args = append(args, "-rtc", "base="+m.Clock.UTC().Format("2006-01-02T15:04:05"))
	}
	return append(args, vm.disk()...)
}

// disk is the drive: a layer over the image, and below the machine a log of all
// writes if one is wanted.
func (vm *VM) disk() []string {
	args := []string{"-blockdev", "driver=qcow2,node-name=layer,file.driver=file,file.filename=" + vm.path("disk.qcow2")}
	drive := "layer"
	if vm.machine.Logged {
		drive = "logged"
		args = append(args, "-blockdev", "driver=blklogwrites,node-name=logged,file=layer,log.driver=file,log.filename="+vm.path("writes.log"))
	}
	return append(args, "-device", "virtio-blk-pci,drive="+drive+",bootindex=1")
}

// spawn starts a program with low priority that ends with this process.
func (vm *VM) spawn(name, program string, args ...string) (*exec.Cmd, error) {
	out, err := os.OpenFile(vm.path(name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command("nice", append([]string{program}, args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	return cmd, nil
}

// kill ends machine and TPM where they are.
func (vm *VM) kill() error {
	vm.hangUp()
	if vm.qemu != nil {
		_ = syscall.Kill(-vm.qemu.Process.Pid, syscall.SIGKILL) // with its socats; gone already is as good
		<-vm.ended
		vm.qemu = nil
	}
	if vm.chip != nil {
		_ = vm.chip.Process.Kill()
		_ = vm.chip.Wait() // it was killed
		vm.chip = nil
	}
	return errors.Join(gone(vm.path("qmp.sock")), gone(vm.path("tpm.sock")))
}

func gone(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// host runs a program of the host.
func host(name string, args ...string) error {
	var said bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return nil
}

// appear waits for a socket of a program that was just started.
func appear(path string) error {
	tick := time.NewTicker(pace / 10)
	defer tick.Stop()
	for limit := time.After(processLimit); ; {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		select {
		case <-limit:
			return fmt.Errorf("%s did not appear within %s", path, processLimit)
		case <-tick.C:
		}
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
