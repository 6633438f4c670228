package attest

import (
	"fmt"
	"strings"
)

func checkFirmware(a *appraisal) (bool, string) {
	switch {
	case a.log == nil || !a.holds[0] || !a.holds[2]:
		return false, "firmware is unknown: PCRs 0 and 2 are not accounted for"
	case a.firmware != nil:
		return true, "firmware is the approved " + clean(a.firmware.Name)
	case len(a.expect.Firmware) == 0:
		return false, "firmware: none is approved yet for this hardware model"
	}
	best, count := "", -1
	for _, set := range a.expect.Firmware {
		if text, same := differs(a.facts.Firmware, set); same > count {
			best, count = text, same
		}
	}
	return false, "firmware is not approved: " + best
}

// differs names the first measurement in which a boot is not like set, and how
// many came before it.
func differs(have []Measurement, set FirmwareSet) (text string, same int) {
	for i, m := range set.Measurements {
		if i >= len(have) {
			return fmt.Sprintf("event %d of %s (%s, PCR %d) did not occur", m.Event, clean(set.Name), m.Type, m.PCR), i
		}
		if h := have[i]; h.PCR != m.PCR || h.Digest != m.Digest {
			return fmt.Sprintf("event %d (%s, PCR %d%s) measures %s, in %s it is %s",
				h.Event, h.Type, h.PCR, commaText(h.Text), h.Digest.short(), clean(set.Name), m.Digest.short()), i
		}
	}
	if n := len(set.Measurements); n < len(have) {
		h := have[n]
		return fmt.Sprintf("event %d (%s, PCR %d%s) is not in %s", h.Event, h.Type, h.PCR, commaText(h.Text), clean(set.Name)), n
	}
	return "", len(have)
}

func commaText(text string) string {
	if text == "" {
		return ""
	}
	return ", " + clean(text)
}

// findFirmware returns the approved set that the boot equals.
func (a *appraisal) findFirmware() *FirmwareSet {
	if len(a.facts.Firmware) == 0 || !a.holds[0] || !a.holds[2] {
		return nil
	}
	for i := range a.expect.Firmware {
		if text, _ := differs(a.facts.Firmware, a.expect.Firmware[i]); text == "" {
			return &a.expect.Firmware[i]
		}
	}
	return nil
}

func checkFirmwareState(a *appraisal) (bool, string) {
	var wrong []string
	for _, pcr := range a.facts.ErrorSeparators {
		wrong = append(wrong, fmt.Sprintf("firmware reported an error in PCR %d", pcr))
	}
	for _, signal := range a.facts.Signals {
		wrong = append(wrong, fmt.Sprintf("firmware measured %q into PCR 7", signal))
	}
	if len(wrong) > 0 {
		return false, strings.Join(wrong, "; ")
	}
	if a.log == nil || !a.holds[7] {
		return false, "firmware state is unknown: PCR 7 is not accounted for"
	}
	return true, "firmware reported no error, debugger or missing DMA protection"
}

func checkSecureBoot(a *appraisal) (bool, string) {
	text := "Secure Boot " + a.facts.SecureBoot
	if a.facts.SecureBoot == "unknown" {
		text += ": PCR 7 has no single SecureBoot variable before its separator"
	}
	return a.facts.SecureBoot == "on", text
}

// clockLoss is how far the clock may go back at a power cut: a TPM writes it down
// after this time at the latest (TPM 2.0 Library, part 1, section 36.3), in ms.
const clockLoss = 1 << 22

// checkClock compares with the last accepted quote of the same key. A TPM adds a
// constant of the key to both counters, modulo 2^32 (TPM 2.0 Library, part 1,
// "Attestation", obfuscation): differences are true, values are not.
func checkClock(a *appraisal) (bool, string) {
	now := a.clock
	if a.expect.Last == nil || a.expect.Last.Clock.Key != now.Key {
		return true, "TPM clock: first quote by this key"
	}
	last := a.expect.Last.Clock
	resets := int32(now.ResetCount - last.ResetCount)
	restarts := int32(now.RestartCount - last.RestartCount)
	back := int64(last.Milliseconds - now.Milliseconds)
	newer := int64(now.FirmwareVersion - last.FirmwareVersion)
	switch {
	case resets < 0:
		return false, fmt.Sprintf("TPM clock: the count of TPM resets went back by %d: the chip's state is an older copy", -int64(resets))
	case resets == 0 && restarts < 0:
		return false, fmt.Sprintf("TPM clock: the count of TPM restarts went back by %d", -int64(restarts))
	case resets == 0 && restarts == 0 && back > 0:
		return false, fmt.Sprintf("TPM clock: it went back by %d ms without a reset", back)
	case back > clockLoss:
		return false, fmt.Sprintf("TPM clock: it went back by %d ms, a power cut costs at most %d: the chip's state is an older copy", back, clockLoss)
	case newer < 0:
		return false, "TPM clock: the chip's firmware is older than at the last quote"
	case newer > 0 && resets == 0:
		return false, "TPM clock: the chip's firmware changed without a reset"
	}
	text := fmt.Sprintf("TPM clock: %d resets since the last quote", resets)
	if !now.Safe {
		text += ", clock not yet safe after a power cut"
	}
	if newer > 0 {
		text += ", the chip's firmware is newer than then"
	}
	return true, text
}
