package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/e2e/lab/image"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// later is a release after the first.
func (w *world) later(version string, change func(*image.Release)) image.Built {
	r := image.Release{Deb: w.deb, Version: version}
	if change != nil {
		change(&r)
	}
	return w.build(r)
}

// offer publishes a release and waits until the gateway boots it.
func (w *world) offer(b image.Built) {
	w.Helper()
	began := time.Now()
	w.vm.ExpectReboot()
	const down = "reboot: Restarting system" // the kernel's: what services print last, a hangup of the console may swallow
	downs := w.vm.Count(down)
	w.owner.release(b, 1)
	w.vm.WaitFor(down, downs+1, updateLimit)
	w.Logf("release %s was fetched and written, and the gateway goes down, after %.0f s", b.Version, time.Since(began).Seconds())
}

const unhealthy = `[Unit]
Description=Lab: a program of the release that does not work
After=ssh.service

[Service]
Type=oneshot
ExecStart=sh -c 'mkdir -p /run/gatewarden/health && echo "critical the pump does not answer" >/run/gatewarden/health/pump'
ExecStart=sh -c 'read -r up _ </proc/uptime; . /etc/os-release; echo "LAB-UP version=$VERSION_ID uptime=$up" >/dev/ttyS0'

[Install]
WantedBy=multi-user.target
`

// Story 2: from A to B on the real boot loader; a bad release is left again, and a good
// one goes from B to A.
func TestAReleaseGoesFromAToBAndABadOneIsLeftAgain(t *testing.T) {
	w := newWorld(t, setup{})
	w.enrol()
	w.seal()
	w.offer(w.later("2.0.0", nil))
	down := time.Now()
	w.vm.Up()
	w.stays("2.0.0", "b", down)

	began := time.Now()
	w.offer(w.later("3.0.0", func(r *image.Release) {
		r.Files = map[string]string{"etc/systemd/system/lab-report.service": unhealthy}
	}))
	w.vm.WaitFor("LAB-UP version=3.0.0", 1, trialLimit)
	w.vm.WaitFor("LAB-UP version=2.0.0", 2, trialLimit)
	u := w.outcome("3.0.0", trialLimit)
	if u.Outcome != wire.UpdateRolledBack || !strings.Contains(u.Text, "services") {
		t.Fatalf("release 3.0.0: %s: %s", u.Outcome, u.Text)
	}
	t.Logf("release 3.0.0 was left after %.0f s: %s", time.Since(began).Seconds(), u.Text)
	w.judged(trusted, began)
	w.opens()
	if quick() {
		return
	}
	w.offer(w.later("4.0.0", nil))
	down = time.Now()
	w.vm.Up()
	w.stays("4.0.0", "a", down)
}

// stays waits until a release on trial in slot is committed, trusted, and opens what
// was sealed before it.
func (w *world) stays(version, slot string, since time.Time) {
	w.Helper()
	if out := w.vm.Run("cat /proc/cmdline"); !strings.Contains(out, "slot-"+slot) {
		w.Fatalf("the trial runs with %s", out)
	}
	if u := w.outcome(version, trialLimit); u.Outcome != wire.UpdateInstalled {
		w.Fatalf("release %s: %s: %s", version, u.Outcome, u.Text)
	}
	w.says(w.judged(trusted, since).Verdict.Explanation[:1], version)
	w.opens()
	w.Until("the boot is blessed", agentLimit, func() error { return w.hasEntries("gw-a.efi gw-b.efi") })
}

const dyingInit = "#!/bin/sh\necho LAB-BROKEN-INIT >/dev/console\nexit 1\n"

// Story 2: an image whose init dies is left by the boot loader alone.
func TestAReleaseWhoseInitDiesIsLeftByItself(t *testing.T) {
	inFull(t)
	w := newWorld(t, setup{})
	w.enrol()
	began := time.Now()
	w.offer(w.later("2.0.0", func(r *image.Release) { r.Files = map[string]string{"usr/lib/systemd/systemd": dyingInit} }))
	w.vm.WaitFor("LAB-BROKEN-INIT", 1, trialLimit)
	w.vm.WaitFor("LAB-UP version=1.0.0", 2, trialLimit)
	u := w.outcome("2.0.0", trialLimit)
	if u.Outcome != wire.UpdateRolledBack {
		t.Fatalf("release 2.0.0: %s: %s", u.Outcome, u.Text)
	}
	t.Logf("after %.0f s the fleet knows: %s", time.Since(began).Seconds(), u.Text)
	// The device can't tell it from a power cut in the trial, after which there is one more.
	if n := w.vm.Count("LAB-BROKEN-INIT"); n > 2 {
		t.Errorf("the broken release was started %d times", n)
	}
	w.judged(trusted, began)
}

// Story 2: a power cut between "set trial" and the reboot, and one in the trial boot.
func TestPowerCutsAroundATrialCostNoMoreThanATrial(t *testing.T) {
	inFull(t)
	w := newWorld(t, setup{})
	w.enrol()
	w.seal()
	w.owner.release(w.later("2.0.0", nil), 1)
	w.Until("the trial is set", updateLimit, func() error {
		out, err := w.vm.Try("ls /efi/EFI/Linux")
		if err != nil || !strings.Contains(out, "gw-b+1.efi\n") {
			return fmt.Errorf("%v: %s", err, out)
		}
		return nil
	})
	w.vm.PowerCut()
	w.vm.Start()
	w.vm.WaitFor("LAB-UP version=2.0.0", 1, trialLimit+updateLimit)
	w.vm.PowerCut()
	began := time.Now()
	w.vm.Start()
	if u := w.outcome("2.0.0", updateLimit+trialLimit); u.Outcome != wire.UpdateInstalled {
		t.Fatalf("release 2.0.0: %s: %s", u.Outcome, u.Text)
	}
	w.says(w.judged(trusted, began).Verdict.Explanation[:1], "2.0.0")
	w.opens()
}
