package doctor

import (
	"context"
	"os"
	"slices"

	"github.com/gatewarden/gatewarden/attest"
)

// eventLog is whether the log of the boot is there, can be read and is true.
func eventLog() *Check {
	return &Check{
		Name: "event-log", About: "the firmware's event log: there, readable, and what the PCRs say", For: "attest",
		Cases: `
no-securityfs problem attest
The kernel's file system with the logs is not mounted: neither event log nor IMA list can be read.
mount -t securityfs securityfs /sys/kernel/security; systemd does it if the kernel has CONFIG_SECURITYFS.

none problem attest
The kernel got no event log from the firmware, so the fleet can't tell what PCRs stand for: "untrusted: event log: the machine has none".
Boot by UEFI through the kernel's EFI stub (systemd-boot or the firmware itself starting a UKI), with firmware that has the TCG2 protocol. The TPM driver must be built into the kernel. On other boards, the device tree must hand the log over (linux,sml-base).

empty problem attest
The firmware hands over an event log with nothing in it: it has the protocol and does not measure, or the boot loader took the log.
Switch measured boot on in the firmware setup, update the firmware, and boot through the kernel's EFI stub.

damaged problem attest
The event log is cut off or no event log at all. The fleet refuses it whole.
Update the firmware. A log that is too long for the firmware's buffer is cut off: boot entries and signature databases that nobody needs make it shorter.

sha1 problem attest
The event log has no SHA-256 digests; quotes are over SHA-256.
Switch the SHA-256 bank on in the firmware setup, and SHA-1 off. Some firmware has the bank but logs SHA-1 alone: update it.

mismatch problem attest
The events do not give the values that are in the TPM. The fleet judges such a boot untrusted: it can't tell a fault from a lie.
Switch the machine off and on; a resume from hibernation or a crash kernel leaves such a state. If it stays, update the firmware: it extends without logging, or logs without extending.

thin advice attest seal
Nothing says with which kernel and command line the machine was started: the boot loader measures neither.
Boot a UKI by systemd-boot, or the firmware itself. GRUB measures only where its tpm module is loaded.
`,
		Look: lookAtEventLog,
	}
}

func lookAtEventLog(ctx context.Context, m *Machine, n *notes) {
	raw, err := m.read(eventLogFile)
	switch {
	case absent(err):
		if entries, err := os.ReadDir(m.at("/sys/kernel/security")); err != nil || len(entries) == 0 {
			n.is("no-securityfs", "/sys/kernel/security is empty")
			return
		}
		n.is("none", "there is no %s", eventLogFile)
		return
	case err != nil:
		n.unseen("read the event log", err)
		return
	case len(raw) == 0:
		n.is("empty", "%s has no bytes", eventLogFile)
		return
	}
	log, err := attest.ParseEventLog(raw)
	if err != nil {
		n.is("damaged", "%v", err)
		return
	}
	values, err := log.Replay()
	if err != nil {
		n.is("sha1", "%v", err)
		return
	}
	chip, err := m.chip(ctx)
	if err != nil || chip.PCRs == nil {
		n.unseen("compare the event log with the TPM", errNoChip)
		return
	}
	var differ []int
	for pcr := range 8 {
		if values[pcr] != attest.Digest(chip.PCRs[pcr]) {
			differ = append(differ, pcr)
		}
	}
	switch measured := func(e attest.LogEvent) bool { return slices.Contains([]int{8, 9, 11, 12}, e.PCR) && e.Extends() }; {
	case len(differ) > 0:
		n.is("mismatch", "the log does not give the values of PCRs %s", numbers(differ))
	case !slices.ContainsFunc(log.Events, measured):
		n.is("thin", "%d events, none in PCRs 8, 9, 11 and 12", len(log.Events))
	}
	n.ok("%d events that give PCRs 0 to 7", len(log.Events))
}
