package doctor

import (
	"fmt"
	"strings"
)

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
			var bad, late []string
			for _, one := range c.EK {
				now, period := m.Now(), fmt.Sprintf("%s, valid %s to %s", one.Kind, day(one.NotBefore), day(one.NotAfter))
				switch {
				case one.Problem != "":
					bad = append(bad, one.Kind+": "+one.Problem)
				case now.Before(one.NotBefore) || now.After(one.NotAfter):
					late = append(late, period)
				default: // the agent takes the first that it can read
					n.ok("%s, by %s", period, one.Issuer)
					return
				}
			}
			switch {
			case len(late) > 0:
				n.is("expired", "%s", strings.Join(late, "; "))
				return
			case len(bad) > 0:
				n.is("unreadable", "%s", strings.Join(bad, "; "))
				return
			}
			n.is("none", "no certificate in the TPM's NV memory")
		},
	}
}
