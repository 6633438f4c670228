package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/agent/doctor"
	"github.com/gatewarden/gatewarden/internal/softkey"
)

func tpmVerb(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "tpm", Short: "the TPM of this machine", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(&cobra.Command{
		Use:   "info",
		Short: "show what the TPM says of itself",
		Long: `Show what the TPM says of itself. It needs no running agent, and changes nothing in
the chip. Root and the group tss may ask. gatewarden doctor says what it means.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			chip, err := readChip(cmd.Context(), o.machine().Settings.TPM)
			if s := o.machine().Settings; err != nil && s.Identity.AllowSoftwareKeys && softkey.NoTPM(s.TPM) {
				return fmt.Errorf("%w\nhint: agent.toml allows software keys, by which this gateway works without; gatewarden doctor says what that costs", err)
			}
			if err != nil {
				return err
			}
			return o.print(chip, func(w io.Writer) { printChip(w, chip) })
		},
	})
	return cmd
}

func printChip(w io.Writer, c *doctor.Chip) {
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-13s %s\n", name, fmt.Sprintf(format, args...))
	}
	row("maker", "%s %s, firmware %s", c.Manufacturer, c.Vendor, firmware(c.FirmwareVersion))
	row("specification", "TPM 2.0 revision %d.%02d", c.Revision/100, c.Revision%100)
	row("manager", "%s", choose(c.ResourceManager, "shared by the kernel's resource manager", "none: this is the raw device"))
	row("PCR banks", "%s", orElse(strings.Join(c.Banks, ", "), "none"))
	for _, ek := range c.EK {
		if ek.Problem != "" {
			row("EK", "%s at %#x: %s", ek.Kind, ek.Index, ek.Problem)
			continue
		}
		row("EK", "%s at %#x, %s to %s, by %s", ek.Kind, ek.Index, ek.NotBefore.Format(time.DateOnly), ek.NotAfter.Format(time.DateOnly), ek.Issuer)
	}
	if len(c.EK) == 0 {
		row("EK", "no certificate")
	}
	row("storage key", "%s", map[string]string{
		"none": "none at 0x81000001; the agent derives its own", "standard": "the standard one at 0x81000001", "other": "0x81000001 holds another key; the agent derives its own",
	}[c.SRK])
	row("passwords", "owner %s, endorsement %s, lockout %s", set(c.OwnerAuth), set(c.EndorsementAuth), set(c.LockoutAuth))
	row("clear", "%s", choose(c.ClearDisabled, "switched off", "allowed with the lockout password"))
	row("lockout", "%d of %d failures; one is forgotten every %d s; %d s after a wrong lockout password%s",
		c.LockoutCounter, c.MaxAuthFail, c.LockoutInterval, c.LockoutRecovery, choose(c.LockedOut, "; LOCKED NOW", ""))
	row("NV memory", "%d indexes, room for %d counters, %d bytes at most in one; epoch counter %s", c.NVIndexes, c.NVCountersAvail, c.NVIndexMax, choose(c.Counter, "there", "not there"))
	row("persistent", "%d objects, room for %d", len(c.Persistent), c.PersistentAvail)
	row("clock", "%s powered since it was cleared; %d resets, %d resumes", time.Duration(c.ClockMs/1000)*time.Second, c.ResetCount, c.RestartCount)
}

func set(yes bool) string { return choose(yes, "set", "not set") }

func choose(yes bool, a, b string) string {
	if yes {
		return a
	}
	return b
}

// firmware splits a version as most makers mean it.
func firmware(v uint64) string {
	return fmt.Sprintf("%d.%d.%d.%d", v>>48, v>>32&0xffff, v>>16&0xffff, v&0xffff)
}
