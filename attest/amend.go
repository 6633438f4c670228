package attest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// exceptionLife is how long a proposed exception lasts.
const exceptionLife = 30 * 24 * time.Hour

// Amendment is a decision by which a rule would hold that did not. It is proposed
// only where a person may well decide so: firmware that was updated, a machine that
// lacks something. What an attacker would change is never among them: a boot that
// no release describes is healed by booting a release, or by publishing one.
type Amendment struct {
	Rule      string       `json:"rule"`
	Firmware  *FirmwareSet `json:"firmware,omitempty"`  // to approve for the hardware model
	Exception *Exception   `json:"exception,omitempty"` // to add to the policy; its reason is for a person to give
}

// Hash names what a set measures, whatever its name and wherever in a log: SHA-256
// (hex) over PCR and digest of each measurement.
func (s FirmwareSet) Hash() string {
	h := sha256.New()
	for _, m := range s.Measurements {
		fmt.Fprintf(h, "%d %x\n", m.PCR, m.Digest)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// amend proposes what would let the failed rules hold.
func (a *appraisal) amend(results []RuleResult) []Amendment {
	var out []Amendment
	for _, r := range results {
		if r.OK || r.Effect == Trusted {
			continue
		}
		switch {
		case r.Rule == ruleFirmware && len(a.facts.Firmware) > 0:
			set := a.facts.FirmwareSet("")
			out = append(out, Amendment{Rule: r.Rule, Firmware: &set})
		case r.Rule == ruleSecureBoot && a.facts.SecureBoot == "off",
			r.Rule == ruleFirmwareState && len(a.facts.Signals) > 0 && len(a.facts.ErrorSeparators) == 0:
			out = append(out, Amendment{Rule: r.Rule, Exception: &Exception{
				Rule: r.Rule, Device: a.expect.Device, Expires: a.expect.Now.Add(exceptionLife).UTC().Truncate(24 * time.Hour),
			}})
		}
	}
	return out
}

// String tells the decision to a person.
func (m *Amendment) String() string {
	if m.Firmware != nil {
		return fmt.Sprintf("if this firmware was meant, approve the set %.16s (%d measurements) for the hardware model; `gatewarden-fleet firmware list` tells how many gateways show it",
			m.Firmware.Hash(), len(m.Firmware.Measurements))
	}
	text, err := json.Marshal(m.Exception)
	if err != nil {
		return err.Error() // it can't: strings and a time
	}
	return fmt.Sprintf("if this gateway has to be so for now, add this to the policy's exceptions, with the reason: `%s`", text)
}
