package e2e

import (
	"os"
	"strings"
	"testing"
	"time"
)

// Story 1, on a machine that runs already: the package is installed on a Debian that was
// built without it, waits, says for what, and goes on by itself, also after a reboot.
func TestThePackageIsInstalledOnAMachineThatRuns(t *testing.T) {
	inFull(t)
	w := newWorld(t, setup{bare: true, coldBoot: true})
	if out := w.vm.Run("ls -d /etc/gatewarden /usr/bin/gatewarden /var/lib/gatewarden 2>&1 || true"); strings.Count(out, "No such file") != 3 {
		t.Fatalf("the product is there already:\n%s", out)
	}
	deb, err := os.ReadFile(w.deb)
	w.check(err)
	w.vm.Put("/tmp/gatewarden.deb", deb)
	began := time.Now()
	out := w.vm.Run("dpkg -i /tmp/gatewarden.deb")
	t.Logf("installed in %.0f s:\n%s", time.Since(began).Seconds(), out)
	w.says(strings.Split(out, "\n"), "the agent starts when fleet.json and operators.json are in /etc/gatewarden/trust")
	if out := w.vm.Run("systemctl is-active gatewarden.path gatewarden-helper.socket gatewarden.service; systemctl --failed --no-legend"); out != "active\nactive\ninactive\n" {
		t.Errorf("after the installation the units are\n%s", out)
	}
	if out, err := w.vm.Try("gatewarden status"); err == nil || !strings.Contains(out, "the agent waits for fleet.json in /etc/gatewarden/trust") {
		t.Errorf("the agent that waits says %v:\n%s", err, out)
	}
	w.configure("")
	s := w.enrol()
	w.says(s.Verdict.Explanation[:1], "trusted: release gwlab 1.0.0")
	began = time.Now()
	w.vm.Reboot()
	w.judged(trusted, began)
}
