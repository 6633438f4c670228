package secret

import (
	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/update/release"
)

// Signed are the PCR policies that a release carries, for Config.Signed. They are not
// verified here: unsealing does that, and the chip again.
func Signed(r *release.Release) []tpmpolicy.Signed {
	list := make([]tpmpolicy.Signed, 0, len(r.PCRPolicies))
	for _, p := range r.PCRPolicies {
		list = append(list, tpmpolicy.Signed{
			PCRs: p.PCRs, Key: tpmpolicy.Digest(p.Key), Policy: tpmpolicy.Digest(p.Policy), Signature: p.Signature,
		})
	}
	return list
}
