package lab

import (
	"os"
	"path/filepath"
	"strings"
	"time"
)

// collect leaves what a failed test needs: console, journal, event log, what the
// product says of itself. The folder's name is printed.
func (vm *VM) collect() {
	name := strings.NewReplacer("/", "-", " ", "-").Replace(vm.Name())
	dir := filepath.Join(vm.Cache.Dir, "failed", name+"-"+time.Now().UTC().Format("150405"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		vm.Log(err)
		return
	}
	vm.Logf("logs are in %s", dir)
	save := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			vm.Log(err)
		}
	}
	serial := vm.Serial()
	save("serial.log", serial)
	vm.Logf("the console's end:\n%s", serial[max(0, len(serial)-2000):])
	if out, err := vm.Try("true"); err != nil {
		vm.Logf("the machine does not answer, so the console is all there is: %v: %s", err, out)
		return
	}
	for name, command := range map[string]string{
		"journal.log":   "journalctl --no-pager -o short-monotonic",
		"eventlog.bin":  "cat /sys/kernel/security/tpm0/binary_bios_measurements",
		"pcrs.txt":      "tpm2_pcrread",
		"status.txt":    "gatewarden status; gatewarden attest; gatewarden health; gatewarden update status; systemctl --failed",
		"loader.txt":    "ls -l /efi/EFI/Linux; bootctl status; cat /proc/cmdline",
		"processes.txt": "ps aux; ls -lR /var/lib/gatewarden /var/lib/gatewarden-helper /run/gatewarden",
	} {
		out, err := vm.Try(command)
		if err != nil {
			out += "\n" + err.Error()
		}
		save(name, out)
		if name == "status.txt" {
			vm.Logf("%s", out)
		}
	}
}
