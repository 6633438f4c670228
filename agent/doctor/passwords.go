package doctor

import (
	"os"
	"strings"
)

// passwords is who may use and clear the chip.
func passwords() *Check {
	return &Check{
		Name: "tpm-passwords", About: "passwords of the TPM's hierarchies, and whether it can be cleared", For: "enrol attest seal update report",
		Cases: `
owner-withheld problem enrol attest seal report
The owner hierarchy has a password that the services were not given, and the chip has no standard storage key at 0x81000001: the agent can't make its keys, nor the helper the epoch counter.
Give it to both services as the credential tpm-owner-auth (docs/operations.md), or empty it: "tpm2_changeauth -c owner -p OLD".

counter-withheld problem seal
The owner hierarchy has a password that the services were not given: the helper can't make the epoch counter, without which nothing can be sealed.
Give it to both services as the credential tpm-owner-auth (docs/operations.md). Once the counter is there the password is not needed for it.

endorsement-withheld problem enrol update
The endorsement hierarchy has a password that the agent was not given: it can't prove that this is a genuine TPM, and the helper can't tell which device this is.
Give it to both services as the credential tpm-endorsement-auth (docs/operations.md), or empty it: "tpm2_changeauth -c endorsement -p OLD".

open advice enrol seal
Whoever gets hold of the TPM's device file can do this gateway harm: without an owner password delete the epoch counter, without a lockout password clear the chip, and with it the keys and all sealed secrets.
Set both, "tpm2_changeauth -c owner NEW" and "-c lockout NEW", and give the owner's to the services as the credential tpm-owner-auth; switch TPM2_Clear off with "tpm2_clearcontrol -C l s -P LOCKOUT". Keep the passwords off the machine. The firmware can still clear the chip.
`,
		Ask: func(c *Chip, m *Machine, n *notes) {
			switch withheld := c.OwnerAuth && !m.given("tpm-owner-auth"); {
			case withheld && c.SRK != "standard":
				n.is("owner-withheld", "the owner hierarchy has a password")
			case withheld && !c.Counter:
				n.is("counter-withheld", "the owner hierarchy has a password, and there is no epoch counter")
			}
			if c.EndorsementAuth && !m.given("tpm-endorsement-auth") {
				n.is("endorsement-withheld", "the endorsement hierarchy has a password")
			}
			var open []string
			for _, one := range []struct {
				fine bool
				what string
			}{{c.OwnerAuth, "no owner password"}, {c.LockoutAuth, "no lockout password"}, {c.ClearDisabled, "TPM2_Clear is allowed"}} {
				if !one.fine {
					open = append(open, one.what)
				}
			}
			if len(open) > 0 {
				n.is("open", "%s", strings.Join(open, ", "))
			}
			n.ok("owner and lockout passwords set, TPM2_Clear off")
		},
	}
}

// given says whether drop-ins of both units name this credential.
func (m *Machine) given(credential string) bool {
	for _, unit := range []string{"gatewarden.service.d", "gatewarden-helper.service.d"} {
		if !m.named(unit, credential) {
			return false
		}
	}
	return true
}

func (m *Machine) named(folder, credential string) bool {
	for _, base := range []string{"/etc", "/run", "/usr/lib"} {
		path := base + "/systemd/system/" + folder
		entries, _ := os.ReadDir(m.at(path)) // without it there are none
		for _, entry := range entries {
			if text, err := m.read(path + "/" + entry.Name()); err == nil && strings.Contains(string(text), credential) {
				return true
			}
		}
	}
	return false
}
