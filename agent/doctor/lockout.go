package doctor

import "fmt"

// lockout is how near the chip is to locking itself.
func lockout() *Check {
	return &Check{
		Name: "lockout", About: "the TPM's protection against guessing", For: "seal",
		Cases: `
near advice seal
Wrong passwords were tried; at the limit the chip locks itself for all that has one. Gatewarden's own keys and secrets have none and work on.
Find the program that tries wrong passwords (PINs of disks, tpm2-tools in scripts). "tpm2_dictionarylockout -c -p LOCKOUT" sets the count to zero with the lockout password; otherwise wait, with the machine on.

locked advice seal
The chip has locked itself: what has a password does not open. Gatewarden's own keys and secrets have none and work on.
Find the program that tries wrong passwords (PINs of disks, tpm2-tools in scripts). "tpm2_dictionarylockout -c -p LOCKOUT" sets the count to zero with the lockout password; otherwise wait, with the machine on.
`,
		Ask: func(c *Chip, _ *Machine, n *notes) {
			state := fmt.Sprintf("%d of %d failures, %s", c.LockoutCounter, c.MaxAuthFail, forgets(c))
			switch {
			case c.LockedOut || c.MaxAuthFail > 0 && c.LockoutCounter >= c.MaxAuthFail:
				n.is("locked", "%s", state)
			case 2*c.LockoutCounter >= c.MaxAuthFail && c.LockoutCounter > 0:
				n.is("near", "%s", state)
			}
			n.ok("%s", state)
		},
	}
}

func forgets(c *Chip) string {
	if c.LockoutInterval == 0 {
		return "none is ever forgotten"
	}
	return fmt.Sprintf("one is forgotten every %d s", c.LockoutInterval)
}
