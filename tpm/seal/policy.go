package seal

import (
	"crypto"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
)

// Policy says when a secret opens.
type Policy struct {
	Name string // of the secret; part of what is authenticated
	Unit string // systemd unit that may have it, or ""

	Ref tpmpolicy.Ref // product, channel, epoch, set of PCRs
	// Key is the PCR-policy key whose signatures open the secret: P-256 or RSA 2048.
	// Without one, Literal lists the boots that open it, as values of Ref.PCRs.
	Key        crypto.PublicKey
	Literal    []map[int]tpmpolicy.Digest
	SecureBoot bool // as verified in this boot; without it Ref.PCRs must contain 4
	Counter    Counter
	// Storage pins the storage key by its Name, so that nobody on the bus can put
	// another in its place; nil at first use.
	Storage []byte
	// Recovery is an off-line key that can open the secret, or nil.
	Recovery crypto.PublicKey
}

// Counter is the NV counter of the security epoch, with the value at which the
// secret opens. The value may be the one to come.
type Counter struct {
	Index uint32 `json:"index"`
	Name  Hex    `json:"name"` // of the written index
	Value uint64 `json:"value"`
}

// check refuses what would protect nothing, before a secret is sealed to it.
func (p Policy) check(now map[int]tpmpolicy.Digest) error {
	if p.Name == "" || len(p.Name) > MaxName || len(p.Unit) > MaxName {
		return fmt.Errorf("name and unit must have 1 and 0 to %d bytes", MaxName)
	}
	if err := tpmpolicy.CheckPCRs(p.Ref.PCRs, p.SecureBoot); err != nil {
		return err
	}
	if len(p.Counter.Name) == 0 {
		return errors.New("no counter: what is sealed without one opens for every old release")
	}
	if (p.Key == nil) == (len(p.Literal) == 0) {
		return errors.New("needs a PCR-policy key, or else the values of the boots in which the secret opens")
	}
	if err := p.checkLiteral(); err != nil {
		return err
	}
	return p.checkMeasured(now)
}

func (p Policy) checkLiteral() error {
	if len(p.Literal) > maxLiteral {
		return fmt.Errorf("%d boots, at most %d are allowed", len(p.Literal), maxLiteral)
	}
	for _, values := range p.Literal {
		if !slices.Equal(slices.Sorted(maps.Keys(values)), p.Ref.PCRs) {
			return fmt.Errorf("a boot is described by other PCRs than %v", p.Ref.PCRs)
		}
		if values[phasePCR].IsZero() {
			return errors.New("a boot is described that measures no kernel into PCR 11")
		}
	}
	return nil
}

// checkMeasured refuses a machine whose firmware or boot loader measures nothing:
// there, every boot looks the same.
func (p Policy) checkMeasured(now map[int]tpmpolicy.Digest) error {
	for _, pcr := range append([]int{secureBootPCR, phasePCR}, p.Ref.PCRs...) {
		if slices.Contains([]int{4, secureBootPCR, phasePCR}, pcr) && now[pcr].IsZero() {
			return fmt.Errorf("PCR %d (%s) was never extended: this machine does not measure its boot", pcr, meaning(pcr))
		}
	}
	return nil
}

// meaning says what a PCR holds, for people (UAPI Group, Linux TPM PCR Registry).
func meaning(pcr int) string {
	switch pcr {
	case 4:
		return "boot loader and kernel image"
	case secureBootPCR:
		return "Secure Boot keys and state"
	case 8:
		return "boot loader commands"
	case 9:
		return "files read by the boot loader"
	case phasePCR:
		return "parts of the kernel image, boot phase"
	case 12:
		return "kernel command line and configuration"
	case 13:
		return "system extensions"
	case 14:
		return "machine owner keys"
	}
	return "another PCR"
}

// boot is the digest of the first part of the policy.
func (h *header) boot() (tpmpolicy.Digest, error) {
	if h.Key == nil {
		branches, err := h.literal()
		if err != nil {
			return tpmpolicy.Digest{}, err
		}
		return tpmpolicy.Or(branches)
	}
	key, err := tpmpolicy.ParseKey(h.Key)
	if err != nil {
		return tpmpolicy.Digest{}, err
	}
	name, err := tpmpolicy.KeyName(key)
	if err != nil {
		return tpmpolicy.Digest{}, err
	}
	ref, err := h.Ref.Digest()
	return tpmpolicy.Authorize(name, ref[:]), err
}

// literal are the policies of the boots that open the secret without a signature.
func (h *header) literal() ([]tpmpolicy.Digest, error) {
	branches := make([]tpmpolicy.Digest, 0, len(h.Literal))
	for _, values := range h.Literal {
		branch, err := tpmpolicy.Digest{}.PCR(values.values())
		if err != nil {
			return nil, err
		}
		branches = append(branches, branch)
	}
	return branches, nil
}

// digest is the policy of the sealed object, and its branches where it has two.
func (h *header) digest() (tpmpolicy.Digest, []tpmpolicy.Digest, error) {
	boot, err := h.boot()
	if err != nil {
		return tpmpolicy.Digest{}, nil, err
	}
	whole, err := boot.Counter(h.Counter.Name, h.Counter.Value).PCR(map[int]tpmpolicy.Digest{secureBootPCR: h.PCR7})
	if err != nil || h.Recovery == nil {
		return whole, nil, err
	}
	recovery, err := h.recovery()
	if err != nil {
		return tpmpolicy.Digest{}, nil, err
	}
	branches := []tpmpolicy.Digest{whole, recovery}
	whole, err = tpmpolicy.Or(branches)
	return whole, branches, err
}

// recovery is the branch of the off-line key.
func (h *header) recovery() (tpmpolicy.Digest, error) {
	key, err := tpmpolicy.ParseKey(h.Recovery)
	if err != nil {
		return tpmpolicy.Digest{}, err
	}
	name, err := tpmpolicy.KeyName(key)
	return tpmpolicy.Digest{}.Signed(name, nil), err
}
