package attest

import (
	"fmt"
	"slices"
)

// ModelFirmware is a firmware set that the owner signed, beside those that operators
// approved.
type ModelFirmware struct {
	Model        string        `json:"model"` // hardware model
	Name         string        `json:"name"`
	Measurements []Measurement `json:"measurements"` // PCRs 0 and 2, in order; only PCR and digest count
}

// KeyReference says which certificates may be in a Secure Boot variable.
type KeyReference struct {
	Variable     string   `json:"variable"`     // PK, KEK or db
	Certificates []Digest `json:"certificates"` // SHA-256 of each that may be there
}

func (p *Policy) checkSets() error {
	for i, f := range p.Firmware {
		if f.Model == "" || f.Name == "" || len(f.Measurements) == 0 {
			return fmt.Errorf("firmware set %d: it needs a model, a name and measurements", i)
		}
		for _, m := range f.Measurements {
			if m.PCR != 0 && m.PCR != 2 || m.Digest.IsZero() {
				return fmt.Errorf("firmware set %q: a measurement is of PCR 0 or 2 and has a digest", f.Name)
			}
		}
	}
	seen := make(map[string]bool)
	for _, k := range p.Keys {
		switch {
		case k.Variable != "PK" && k.Variable != "KEK" && k.Variable != "db":
			return fmt.Errorf("keys: %.70q is not PK, KEK or db", k.Variable)
		case seen[k.Variable]:
			return fmt.Errorf("keys: %s occurs twice", k.Variable)
		case len(k.Certificates) == 0 || slices.ContainsFunc(k.Certificates, Digest.IsZero):
			return fmt.Errorf("keys: %s needs certificates, each with its digest", k.Variable)
		}
		seen[k.Variable] = true
	}
	return nil
}

// firmwareOf lists the owner's sets for a model.
func (p *Policy) firmwareOf(model string) []FirmwareSet {
	var sets []FirmwareSet
	for _, f := range p.Firmware {
		if f.Model == model {
			sets = append(sets, FirmwareSet{Name: f.Name, Measurements: f.Measurements})
		}
	}
	return sets
}

// checkKeys holds where the policy lists no keys: then it is the firmware's maker
// who says what may boot.
func checkKeys(a *appraisal) (bool, string) {
	references := a.expect.Policy.Keys
	switch {
	case len(references) == 0:
		return true, "Secure Boot keys: the policy lists none"
	case a.log == nil || !a.holds[7]:
		return false, "Secure Boot keys are unknown: PCR 7 is not accounted for"
	}
	for _, reference := range references {
		found := false
		for _, v := range a.facts.Keys {
			if v.Name != reference.Variable {
				continue
			}
			found = true
			if text := reference.refuses(&v); text != "" {
				return false, fmt.Sprintf("Secure Boot keys: %s %s, PCR 7, event %d", v.Name, text, v.Event)
			}
		}
		if !found {
			return false, fmt.Sprintf("Secure Boot keys: %s was not measured into PCR 7", reference.Variable)
		}
	}
	return true, fmt.Sprintf("Secure Boot keys: %d variables hold only certificates of the policy", len(references))
}

// refuses says what is in a variable that should not be.
func (k *KeyReference) refuses(v *Variable) string {
	if v.Doubt != "" {
		return "can't be read: " + v.Doubt
	}
	if v.Hashes > 0 {
		return fmt.Sprintf("holds %d hashes of images, which the policy can't list", v.Hashes)
	}
	if v.Others > 0 {
		return fmt.Sprintf("holds %d signatures that are neither certificates nor hashes, which the policy can't list", v.Others)
	}
	for _, certificate := range v.Certificates {
		if !slices.Contains(k.Certificates, certificate) {
			return fmt.Sprintf("holds the certificate %s; not in the policy", certificate.short())
		}
	}
	return ""
}
