package doctor

import "fmt"

// ek is whether the chip's maker vouches for it.
func ek() *Check {
	return &Check{
		Name: "ek", About: "the certificate by which the TPM's maker vouches for its endorsement key", For: "enrol",
		Cases: `
none advice enrol
The TPM has no endorsement certificate: nothing but the person who approves it says that this is a genuine chip and not a program.
Approve the gateway with --accept-ek, on a day when you know that it is this machine. Some makers hand certificates out on line or on request: ask yours.

unreadable advice enrol
There is an endorsement certificate that can't be read; it counts as none.
Approve the gateway with --accept-ek, and ask the maker of the machine for the right certificate.

expired advice enrol
The endorsement certificate is not valid now, by this machine's clock; the fleet goes by its own.
Look at the clock first. If the certificate has expired, approve the gateway with --accept-ek; firmware updates of the chip bring a new one at times.
`,
		Ask: func(c *Chip, m *Machine, n *notes) {
			bad := ""
			for _, one := range c.EK { // the agent takes the first that it can read
				period := fmt.Sprintf("%s, valid %s to %s", one.Kind, day(one.NotBefore), day(one.NotAfter))
				switch now := m.Now(); {
				case one.Problem != "":
					bad = one.Kind + ": " + one.Problem
					continue
				case now.Before(one.NotBefore) || now.After(one.NotAfter):
					n.is("expired", "%s", period)
				default:
					n.ok("%s, by %s", period, one.Issuer)
				}
				return
			}
			if bad != "" {
				n.is("unreadable", "%s", bad)
				return
			}
			n.is("none", "no certificate in the TPM's NV memory")
		},
	}
}
