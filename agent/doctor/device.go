package doctor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/gatewarden/gatewarden/tpm"
)

// device is whether there is a TPM 2.0 and it answers.
func device() *Check {
	return &Check{
		Name: "tpm", About: "whether there is a TPM 2.0 that answers, behind the kernel's resource manager", For: "all",
		Cases: `
absent problem all
The kernel shows no TPM. Without one the agent does not start, unless agent.toml allows software keys.
Switch the TPM on in the firmware setup (TPM, PTT, fTPM). If it is on, the kernel lacks the chip's driver (CONFIG_TCG_TIS, CONFIG_TCG_CRB or the maker's), or the device tree does not name the chip. For a board that has none, read docs/software-keys.md.

software-keys problem attest seal
There is no TPM, and agent.toml allows software keys. The gateway works where the fleet's signed policy admits such, with short certificates; nothing proves what it booted, its keys can be copied, and nothing can be sealed.
If the board has a TPM after all, switch it on in the firmware setup before it enrols.

gone problem all
This gateway enrolled with a TPM, which is not there now. Software keys never take its place, though agent.toml allows them.
Switch the TPM on again. To give it up, move the folder identity in the state folder away: the gateway enrols as another one.

version-1 problem all
This is a TPM 1.2; Gatewarden needs 2.0.
Look for a firmware update or a setting that makes it a 2.0, or use another board.

no-manager problem all
There is a TPM but no resource manager: agent, helper and other programs could not share it.
Use Linux 4.12 or later, which makes /dev/tpmrm0 for a TPM 2.0.

no-node problem all
The kernel has the TPM, but there is no file in /dev for it where agent.toml looks.
Let udev or devtmpfs make /dev/tpmrm0, or name the device by "tpm" in agent.toml; in a container, pass the device in.

raw advice all
The raw device takes one program at a time: agent and helper lock each other out, and nobody cleans up after them.
Set tpm = "/dev/tpmrm0" in agent.toml, and --tpm in helper.env likewise.

held problem all
Another program holds the raw device.
Use /dev/tpmrm0, in the other program too; "fuser -v /dev/tpm0" names it.

silent problem all
The chip does not answer, or says that it is busy for too long.
Switch the machine off and on (a reboot may not reset the chip). If it stays, look at dmesg for tpm; the chip or its bus is broken.

broken problem all
What answers is no working TPM 2.0: it is in failure mode, or its driver is faulty.
Switch the machine off and on. If it stays, update the chip's firmware or replace it.
`,
		Look: lookAtDevice,
	}
}

func lookAtDevice(ctx context.Context, m *Machine, n *notes) {
	path := m.Settings.TPM
	chip, err := m.chip(ctx)
	switch {
	case err == nil && !chip.ResourceManager:
		n.is("raw", "agent.toml names %s", path)
		return
	case err == nil:
		n.ok("%s %s at %s answers", chip.Manufacturer, chip.Vendor, path)
		return
	case errors.Is(err, fs.ErrPermission):
		n.unseen("open the TPM", err)
		return
	case errors.Is(err, syscall.EBUSY):
		n.is("held", "%v", err)
		return
	case errors.Is(err, tpm.ErrBusy), errors.Is(err, context.DeadlineExceeded):
		n.is("silent", "%v", err)
		return
	case absent(err):
		missingDevice(m, n)
		return
	}
	n.is("broken", "%v", err)
}

// missingDevice says how much of a TPM the kernel has.
func missingDevice(m *Machine, n *notes) {
	_, err := os.Stat(m.at("/sys/class/tpm/tpm0"))
	if err != nil {
		n.is(m.without(), "no %s, and nothing in /sys/class/tpm", m.Settings.TPM)
		return
	}
	if version, err := m.word("/sys/class/tpm/tpm0/tpm_version_major"); err == nil && version == "1" {
		n.is("version-1", "/sys/class/tpm/tpm0 is of version 1")
		return
	}
	if _, err := os.Stat(m.at("/sys/class/tpmrm/tpmrm0")); err != nil {
		n.is("no-manager", "/sys/class/tpm/tpm0 is there, /sys/class/tpmrm/tpmrm0 is not")
		return
	}
	n.is("no-node", "/sys/class/tpmrm/tpmrm0 is there, %s is not", m.Settings.TPM)
}

// without is what it means that the kernel shows no TPM.
func (m *Machine) without() string {
	there := func(path string) bool {
		_, err := os.Lstat(m.at(path))
		return err == nil
	}
	switch {
	case !m.Settings.Identity.AllowSoftwareKeys || there("/sys/firmware/acpi/tables/TPM2"):
		return "absent"
	case there(m.Settings.State + "/identity/ek.json"):
		return "gone"
	}
	return "software-keys"
}

// access is whether the agent may open the TPM, whoever asks here.
func access() *Check {
	return &Check{
		Name: "tpm-access", About: "whether the agent's group may open the TPM", For: "all",
		Cases: `
denied problem all
The agent is in the group tss and in no other; it can't open the TPM.
"udevadm trigger --subsystem-match=tpmrm" uses the rule that the package installed (60-gatewarden.rules): group tss, mode 0660.

open advice all
Every user of the machine may use the TPM: load keys, fill it, and clear it where it has no lockout password.
Remove the udev rule that opens it; group tss and mode 0660 are enough.
`,
		Look: func(_ context.Context, m *Machine, n *notes) {
			path := m.Settings.TPM
			if strings.HasPrefix(path, "unix:") {
				n.ok("%s is an emulator's socket", path)
				return
			}
			info, stat, err := m.owned(path)
			if absent(err) {
				return // the check tpm says so
			}
			tss, groupErr := m.id("/etc/group", "tss")
			if err := errors.Join(err, groupErr); err != nil {
				n.unseen("tell whose the TPM is", err)
				return
			}
			mode := info.Mode().Perm()
			switch {
			case mode&0o006 != 0:
				n.is("open", "%s has mode %04o", path, mode)
			case int(stat.Gid) != tss || mode&0o060 != 0o060:
				n.is("denied", "%s belongs to group %d with mode %04o; tss is %d", path, stat.Gid, mode, tss)
			}
			n.ok("%s is for the group tss", path)
		},
	}
}
