package doctor

import "testing"

func TestOnAMachineWithoutFaultAllIsWell(t *testing.T) {
	b := newBox(t)
	d := Run(t.Context(), b.Machine)
	seen := map[string]bool{}
	for _, f := range d.Findings {
		seen[f.Check] = true
		if f.Level != OK {
			t.Errorf("%s: %s: %s", f.Check, f.Level, f.Found)
		}
	}
	for _, check := range All() {
		if !seen[check.Name] {
			t.Errorf("%s says nothing", check.Name)
		}
	}
	for _, c := range d.Abilities {
		if c.Answer != "yes" {
			t.Errorf("%s: %s because of %q", c.Ability, c.Answer, c.Because)
		}
	}
}
