package doctor

import (
	"context"
	"os"
)

const (
	globalVariable = "-8be4df61-93ca-11d2-aa0d-00e098032b8c" // UEFI 2.10, section 3.3
	loaderVariable = "-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f" // Boot Loader Interface
)

// secureBoot is what the firmware says; attestation proves it.
func secureBoot() *Check {
	return &Check{
		Name: "secure-boot", About: "whether the firmware starts signed programs only", For: "attest seal",
		Cases: `
no-uefi advice attest seal
This machine was not booted by UEFI, so there is no Secure Boot; verdicts note that.
On a PC, switch legacy boot (CSM) off and install for UEFI. On other boards, see docs/hardware.md for U-Boot as UEFI.

no-variables advice attest seal update
The firmware's variables are not mounted: neither Secure Boot nor the boot loader can be asked.
mount -t efivarfs efivarfs /sys/firmware/efi/efivars; systemd does it if the kernel has CONFIG_EFIVAR_FS.

off advice attest seal
The firmware starts any program. What was started is still measured and judged; verdicts note that Secure Boot is off.
Enrol your keys and switch it on in the firmware setup. Where it stays off, seal needs releases with PCR policies that include PCR 4 (docs/updates.md, "PCR policies").

setup advice attest seal
The firmware waits for keys (setup mode): whoever boots next may install some, and nothing is refused until then.
Enrol your keys: PK last.

odd advice attest seal
The firmware's answer about Secure Boot makes no sense; it counts as off.
Update the firmware.
`,
		Look: func(_ context.Context, m *Machine, n *notes) {
			if _, err := os.Stat(m.at("/sys/firmware/efi")); absent(err) {
				n.is("no-uefi", "there is no /sys/firmware/efi")
				return
			}
			if entries, err := os.ReadDir(m.at("/sys/firmware/efi/efivars")); absent(err) || err == nil && len(entries) == 0 {
				n.is("no-variables", "/sys/firmware/efi/efivars is empty")
				return
			}
			on, err := m.variable("SecureBoot" + globalVariable)
			setup, setupErr := m.variable("SetupMode" + globalVariable)
			switch {
			case absent(err):
				n.is("off", "the firmware has no Secure Boot")
			case err != nil:
				n.unseen("read the Secure Boot variable", err)
			case len(on) != 1 || on[0] > 1:
				n.is("odd", "the variable SecureBoot is %x", on)
			case setupErr == nil && len(setup) == 1 && setup[0] == 1:
				n.is("setup", "Secure Boot is in setup mode")
			case on[0] == 0:
				n.is("off", "Secure Boot is off")
			}
			n.ok("Secure Boot is on")
		},
	}
}

// secured is whether seal would believe in Secure Boot: as the agent does.
func (m *Machine) secured() bool {
	on, err := m.variable("SecureBoot" + globalVariable)
	return err == nil && len(on) == 1 && on[0] == 1
}
