package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/e2e/lab"
	"github.com/gatewarden/gatewarden/e2e/lab/image"
)

// Story 4, and the part of story 3 that needs it: Secure Boot with enrolled keys and
// lockdown are attested; switched off, that is said and the secret stays shut; an
// unsigned image is refused by the firmware.
func TestSecureBootIsAttestedAndRefusesWhatIsNotSigned(t *testing.T) {
	inFull(t)
	w := newWorld(t, setup{machine: lab.Machine{SecureBoot: true}, first: func(r *image.Release) { r.Signed, r.Words = true, "lockdown=integrity" }})
	s := w.enrol()
	w.says(s.Verdict.Explanation[:1], "Secure Boot on")
	if out := w.vm.Run("cat /sys/kernel/security/lockdown"); !strings.Contains(out, "[integrity]") {
		t.Errorf("lockdown is %s", out)
	}
	w.seal()

	w.vm.PowerOff()
	w.vm.SecureBoot(false)
	began := time.Now()
	w.vm.PowerOn()
	w.Until("Secure Boot off is noticed", verdictLimit, func() error {
		s, err := w.status()
		if err != nil || s.Verdict == nil || !s.Verdict.Issued.After(began) {
			return fmt.Errorf("no verdict yet: %w", err)
		}
		if text := strings.Join(s.Verdict.Explanation, "\n"); !strings.Contains(text, "Secure Boot off") {
			return fmt.Errorf("the verdict says\n%s", text)
		}
		return nil
	})
	t.Log(strings.Join(w.explanation(), "\n"))
	w.staysShut("PCR 7")

	unsigned, err := os.ReadFile(w.build(image.Release{Deb: w.deb, Version: "1.0.0", Words: "lockdown=integrity"}).UKI("a"))
	w.check(err)
	w.vm.Put(running, unsigned)
	w.vm.Run("sync")
	w.vm.PowerOff()
	w.vm.SecureBoot(true)
	w.vm.Start()
	w.vm.WaitFor("(?i)access denied|security violation", 1, bootLimit)
}

const bootLimit = 5 * time.Minute

// Story 3: with a dm-verity root, an agent that was swapped on the disk does not run.
func TestASwappedAgentDoesNotRunOnAVerityRoot(t *testing.T) {
	inFull(t)
	w := newWorld(t, setup{first: func(r *image.Release) { r.Verity = true }})
	s := w.enrol()
	w.says(s.Verdict.Explanation, "command line", "verity=")
	first := w.build(image.Release{Deb: w.deb, Version: "1.0.0", Verity: true})
	out, err := exec.Command("/usr/sbin/debugfs", "-R", "blocks /usr/bin/gatewarden", first.Rootfs).Output()
	w.check(err)
	blocks := strings.Fields(string(out))
	if len(blocks) < 100 {
		t.Fatalf("the agent has %d blocks", len(blocks))
	}
	w.vm.Run(fmt.Sprintf("printf 'echo owned' | dd of=/dev/vda2 bs=%d seek=%s conv=notrunc,fsync 2>&1", blockSize(w, first.Rootfs), blocks[0]))
	w.vm.ExpectReboot()
	w.vm.Run("systemctl --no-block reboot")
	w.vm.WaitFor("dm-verity device corrupted", 1, bootLimit)
	if n := w.vm.Count("LAB-UP"); n > 1 {
		t.Logf("the machine came up before it read the agent")
	}
}

func blockSize(w *world, rootfs string) int {
	out, err := exec.Command("/usr/sbin/debugfs", "-R", "stats", rootfs).Output()
	w.check(err)
	for line := range strings.Lines(string(out)) {
		var size int
		if n, _ := fmt.Sscanf(line, "Block size: %d", &size); n == 1 {
			return size
		}
	}
	w.Fatal("debugfs tells no block size")
	return 0
}

// Story 7: a machine without an event log is told so.
func TestAMachineWithoutAnEventLogIsToldSo(t *testing.T) {
	inFull(t)
	w := newWorld(t, setup{grub: true})
	s := w.until("the gateway waits for approval", agentLimit, isWaiting)
	w.id = s.Device
	if out, err := w.vm.Try("cat /sys/kernel/security/tpm0/binary_bios_measurements"); err == nil {
		t.Fatalf("the machine has an event log of %d bytes", len(out))
	}
	w.Until("the fleet says what is missing", verdictLimit, func() error {
		d, err := w.api.Device(w.Context(), w.id)
		if err != nil || d.Verdict == nil {
			return fmt.Errorf("no verdict yet: %w", err)
		}
		if !strings.Contains(strings.Join(d.Verdict.Explanation, "\n"), "event log: the machine has none") {
			return fmt.Errorf("the verdict is %q", d.Verdict.Explanation)
		}
		return nil
	})
	if d, err := w.api.Device(w.Context(), w.id); err != nil || d.Verdict.Grade != "untrusted" {
		t.Errorf("graded %s: %v", d.Verdict.Grade, err)
	}
	w.lacks("attest", "event-log.none")
}

// Story 7: a clock that lost its battery delays nothing and is said.
func TestAWrongClockAtBootIsSaidAndStrandsNobody(t *testing.T) {
	inFull(t)
	w := newWorld(t, setup{coldBoot: true, machine: lab.Machine{Clock: time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)}})
	w.enrol()
	// systemd does not believe the year 2001 either, and begins when it was built.
	out := w.vm.Run("date +%s; gatewarden status")
	var now int64
	if _, err := fmt.Sscan(out, &now); err != nil || time.Since(time.Unix(now, 0)) < 24*time.Hour || !strings.Contains(out, "time         not trusted") {
		t.Errorf("with a wrong clock the agent says\n%s", out)
	}
	w.vm.Run(fmt.Sprintf("date -s @%d", time.Now().Unix()))
	w.vm.Run("gatewarden attest --now")
	w.judged(trusted, time.Now().Add(-time.Minute))
}

// Story 7: a fleet server, then a network, that goes and comes back.
func TestANetworkThatWasAwayIsSaidAndRecovered(t *testing.T) {
	inFull(t)
	w := newWorld(t, setup{})
	w.enrol()
	w.stopped()
	w.until("the agent says that it is alone", verdictLimit, func(s local.Status) bool { return !s.Link.Connected && s.Link.LastError != "" })
	began := time.Now()
	w.serve()
	w.judged(trusted, began)

	w.vm.Network(false)
	w.Until("the fleet misses the gateway", verdictLimit, func() error {
		d, err := w.api.Device(w.Context(), w.id)
		if err == nil && d.Verdict.At.After(time.Now().Add(-90*time.Second)) { // attest.interval is a minute
			err = fmt.Errorf("it was judged at %s", d.Verdict.At)
		}
		return err
	})
	began = time.Now()
	w.vm.Network(true)
	w.judged(trusted, began)
	w.until("nothing is left behind", agentLimit, func(s local.Status) bool { return s.Outbox.Pending == 0 && s.Outbox.Dropped == 0 })
}
