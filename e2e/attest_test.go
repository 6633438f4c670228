package e2e

import (
	"fmt"
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
	w.rests()
	if !quick() {
		w.keepsAHijackedAgent()
	}
}

// rests waits until the agent has given back what its work took, and is within the
// budget of 12 MB. It works again soon: the lab's intervals are short.
func (w *world) rests() {
	w.Helper()
	w.Until("the agent rests in 12 MB", agentLimit, func() error {
		out := w.vm.Run("grep -hE 'VmRSS|RssAnon' /proc/$(systemctl show -p MainPID --value gatewarden)/status")
		var resident, own int
		if _, err := fmt.Sscanf(strings.Join(strings.Fields(out), " "), "VmRSS: %d kB RssAnon: %d kB", &resident, &own); err != nil {
			return fmt.Errorf("read %q: %w", out, err)
		}
		w.Logf("the agent has %d kB resident, %d of them its own", resident, own)
		if resident*1024 > 12_000_000 {
			return fmt.Errorf("%d kB are resident", resident)
		}
		return nil
	})
}
