package doctor

import (
	"context"
	"errors"

	"github.com/gatewarden/gatewarden/attest"
)

const imaFile = "/sys/kernel/security/ima/binary_runtime_measurements"

// ima is whether the kernel measures what it runs.
func ima() *Check {
	return &Check{
		Name: "ima", About: "the kernel's list of what it ran (IMA), which a policy may judge", For: "attest",
		Cases: `
off advice attest
The kernel keeps no IMA list. Verdicts say how the machine booted, and nothing of the programs that run in it.
Needed only if your policy judges the list: CONFIG_IMA, CONFIG_IMA_DEFAULT_HASH_SHA256, and an IMA policy ("ima_policy=tcb" on the command line).

no-policy advice attest
IMA is built in and measures nothing: no policy says what to measure.
Needed only if your policy judges the list: "ima_policy=tcb" on the command line, or a policy of your own.

no-chip advice attest
IMA began before it had a TPM, so that nothing vouches for its list, and nothing of it is judged.
Needed only if your policy judges the list: build the TPM driver into the kernel, since a module comes too late for IMA.

mismatch problem attest
The list does not give the value of PCR 10. The fleet judges such a boot untrusted.
Reboot: kexec and a resume from hibernation leave such a state. If it stays, some other program extends PCR 10.

damaged problem attest
The list can't be read as one; the fleet refuses it.
Use the kernel's own templates (ima-ng, ima-sig, ima-ngv2), and little-endian lists (ima_canonical_fmt on big-endian machines).
`,
		Look: func(ctx context.Context, m *Machine, n *notes) {
			// The TPM first: the list may run ahead of PCR 10, never behind.
			chip, chipErr := m.chip(ctx)
			list, err := m.read(imaFile)
			switch {
			case absent(err), err == nil && len(list) == 0:
				n.is("off", "there is no IMA list")
				return
			case err != nil:
				n.unseen("read the IMA list", err)
				return
			case chipErr != nil || chip.PCRs == nil:
				n.unseen("compare the IMA list with the TPM", errNoChip)
				return
			}
			facts, err := attest.ReplayIMA(list, chip.PCRs[10])
			switch {
			case err != nil && !errors.Is(err, attest.ErrIMAAhead):
				n.is("damaged", "%v", err)
			case chip.PCRs[10] == [32]byte{}:
				n.is("no-chip", "%d entries, and PCR 10 is zero", facts.Entries+facts.Ahead)
			case err != nil:
				n.is("mismatch", "%v", err)
			case facts.Entries+facts.Ahead <= 1:
				n.is("no-policy", "the IMA list has %d entry", facts.Entries)
			}
			n.ok("%d entries that give PCR 10", facts.Entries)
		},
	}
}
