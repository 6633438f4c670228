package command

import "github.com/gatewarden/gatewarden/internal/policy"

// attest attests the device now, rather than when the fleet next asks.
func attest(d Deps) Command { return plain(policy.VerbAttest, d.Attest) }
