package e2e

import (
	"strings"
	"testing"
	"time"
)

// Story 1: a machine out of the factory is enrolled and attested on the event log
// of real firmware.
func TestAGatewayIsEnrolledAndTrustedOnARealEventLog(t *testing.T) {
	w := newWorld(t, setup{})
	s := w.enrol()
	w.says(s.Verdict.Explanation[:1], "trusted: release gwlab 1.0.0")
	lines := w.explanation()
	t.Log(strings.Join(lines, "\n"))
	w.says(lines, "held", "boot applications", `\EFI\BOOT\BOOTX64.EFI`, `\EFI\Linux\gw-a.efi`)
	w.says(lines, "held", "kernel command line", "root=PARTLABEL=slot-a ro")
	w.says(lines, "held", "boot phases passed: sysinit, ready")
	w.says(lines, "held", "UKI sections")
	// Nobody but root may read the log: the helper handed it over.
	if out := w.vm.Run("stat -c '%A %U' /sys/kernel/security/tpm0/binary_bios_measurements; ps -o user= -C gatewarden"); !strings.HasPrefix(out, "-r--r----- root\n") || !strings.Contains(out, "gatewar") {
		t.Errorf("the event log and the agent belong to %s", out)
	}
	w.fits()
	began := time.Now()
	w.vm.Run("gatewarden attest --now")
	w.judged(trusted, began)
	t.Log("memory of the agent:\n" + w.vm.Run("grep -E 'VmRSS|RssAnon|VmHWM' /proc/$(systemctl show -p MainPID --value gatewarden)/status"))
	if !quick() {
		w.keepsAHijackedAgent()
	}
}
