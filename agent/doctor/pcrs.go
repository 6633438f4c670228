package doctor

import (
	"os"
	"strings"
)

const eventLogFile = "/sys/kernel/security/tpm0/binary_bios_measurements"

// pcrs is whether the firmware measures into the bank that quotes are made of.
func pcrs() *Check {
	return &Check{
		Name: "pcrs", About: "whether the firmware measures the boot into the TPM's SHA-256 bank", For: "enrol attest seal",
		Cases: `
no-bank problem enrol attest seal report
The SHA-256 bank of the TPM is off. What is quoted and sealed to is SHA-256; SHA-1 is not believed.
Switch SHA-256 on in the firmware setup ("PCR bank", "hash algorithm"), or by "tpm2_pcrallocate sha256:all+sha1:none" with the platform's leave. Then switch the machine off and on.

blank problem attest seal
The firmware extended none of PCRs 0 to 7: nobody measured how this machine booted, so nothing can be proven of it.
Switch measured boot on in the firmware setup, or build the firmware with it (EDK2: TPM2_ENABLE; U-Boot: CONFIG_MEASURED_BOOT, CONFIG_EFI_TCG2_PROTOCOL). A TPM on SPI needs a driver in the firmware, too.

reset problem attest seal
There is an event log, but PCRs 0 to 7 are as after a reset: the chip was reset after the boot, or the firmware measured into another bank or another chip.
Switch the machine off and on. If it stays, set the firmware to SHA-256, and look whether the machine has two TPMs: the firmware must use the one that Linux uses.
`,
		Ask: func(c *Chip, m *Machine, n *notes) {
			if !c.SHA256Bank {
				n.is("no-bank", "banks that are on: %s", orElse(strings.Join(c.Banks, ", "), "none"))
				return
			}
			if !c.blank(0, 1, 2, 3, 4, 5, 6, 7) {
				n.ok("SHA-256 bank on, PCRs 0 to 7 extended")
				return
			}
			if _, err := os.Stat(m.at(eventLogFile)); err == nil {
				n.is("reset", "PCRs 0 to 7 are zero although there is an event log")
				return
			}
			n.is("blank", "PCRs 0 to 7 are zero, and there is no event log")
		},
	}
}

// blank says whether all of these PCRs are as after a reset.
func (c *Chip) blank(list ...int) bool {
	for _, pcr := range list {
		value := c.PCRs[pcr]
		value[31] &^= 7 // PCR 0 begins with the locality of TPM2_Startup
		if value != [32]byte{} {
			return false
		}
	}
	return true
}
