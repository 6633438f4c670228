package tpmpolicy

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Ref says for which secrets an approved policy counts. Its digest is the policyRef
// of PolicyAuthorize; the approving key signs it together with the policy.
type Ref struct {
	Product string `json:"product"`
	Channel string `json:"channel"`
	Epoch   uint64 `json:"epoch"` // security epoch at sealing, from 1
	// PCRs is the set that the approved policy is about. It is part of the digest: a
	// policy over fewer PCRs, signed for machines with Secure Boot, must not open what
	// a machine without it sealed.
	PCRs []int `json:"pcrs"`
	// Until is the boot phase after which the secret stays shut: "ready", or "" for
	// secrets that open in each phase in use.
	Until string `json:"until,omitempty"`
}

// Digest is SHA-256 over the fields in their order, separated by '|', which none of
// them can contain. 32 bytes fit a chip that knows SHA-256 only.
func (r Ref) Digest() (Digest, error) {
	if err := r.check(); err != nil {
		return Digest{}, fmt.Errorf("name sealed boot state: %w", err)
	}
	numbers := make([]string, len(r.PCRs))
	for i, pcr := range r.PCRs {
		numbers[i] = strconv.Itoa(pcr)
	}
	fields := []string{"gw-seal-v1", r.Product, r.Channel, strconv.FormatUint(r.Epoch, 10), strings.Join(numbers, ","), r.Until}
	return sha256.Sum256([]byte(strings.Join(fields, "|"))), nil
}

func (r Ref) check() error {
	if err := word("product", r.Product); err != nil {
		return err
	}
	if err := word("channel", r.Channel); err != nil {
		return err
	}
	if r.Epoch < 1 || r.Epoch > maxEpoch {
		return fmt.Errorf("epoch is %d, it must be from 1 to %d", r.Epoch, maxEpoch)
	}
	if r.Until != "" && r.Until != "ready" {
		return fmt.Errorf("until is %.40q, it must be ready or empty", r.Until)
	}
	return CheckPCRs(r.PCRs, true)
}

func word(key, s string) error {
	const first = "abcdefghijklmnopqrstuvwxyz0123456789"
	if s == "" || len(s) > maxWord || strings.Trim(s, first+"-") != "" || !strings.Contains(first, s[:1]) {
		return fmt.Errorf("%s is %.70q, it must be a name of up to %d of a-z, 0-9 and -", key, s, maxWord)
	}
	return nil
}

// CheckPCRs refuses a set of PCRs that a secret must not be sealed to. 11 alone
// proves nothing, since any program that the firmware starts can extend published
// values; 12 and 13 hold what may be added to a signed image. Without Secure Boot
// nothing but 4 says which programs were started. 0 to 3 change with the firmware,
// which must not lose secrets. 7 is not in the set: a device seals to its own value.
func CheckPCRs(pcrs []int, secureBoot bool) error {
	for i, pcr := range pcrs {
		if i > 0 && pcr <= pcrs[i-1] {
			return fmt.Errorf("PCRs %v are not ascending", pcrs)
		}
		if !slices.Contains([]int{4, 8, 9, 11, 12, 13, 14}, pcr) {
			return fmt.Errorf("PCR %d is not one to seal to: 11, 12 and 13 are, and 4, 8, 9, 14 where the release covers them", pcr)
		}
	}
	for _, must := range []int{11, 12, 13} {
		if !slices.Contains(pcrs, must) {
			return fmt.Errorf("PCRs %v lack %d: 11, 12 and 13 are the least", pcrs, must)
		}
	}
	if !secureBoot && !slices.Contains(pcrs, 4) {
		return fmt.Errorf("PCRs %v lack 4, and Secure Boot is off: any program could have been started before", pcrs)
	}
	return nil
}
