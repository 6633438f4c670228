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
	// what only root may read came through the helper
	if out := w.vm.Run("stat -c %A /sys/kernel/security/tpm0/binary_bios_measurements; systemctl is-active gatewarden-helper.service || true"); !strings.HasPrefix(out, "-r--r-----") {
		t.Errorf("the event log's mode is %s", out)
	}
	if since := time.Now(); true {
		w.vm.Run("gatewarden attest --now")
		w.judged(trusted, since.Add(-time.Minute))
	}
	t.Log(w.vm.Run("grep -E 'VmRSS|RssAnon' /proc/$(systemctl show -p MainPID --value gatewarden)/status; gatewarden health; systemd-analyze security --no-pager | grep gatewarden"))
}
