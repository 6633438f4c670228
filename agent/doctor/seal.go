package doctor

import (
	"path/filepath"
	"strings"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/update/release"
)

// seal is why `gatewarden seal` would refuse, beside what other checks say.
func seal() *Check {
	return &Check{
		Name: "seal", About: "whether `gatewarden seal` would find something to seal to", For: "seal",
		Cases: `
no-uki problem seal
PCR 11 is empty: systemd-stub did not start this kernel. Every PCR policy is about what it measures.
Boot a unified kernel image (UKI) by systemd-boot or the firmware.

no-policies problem seal
The owner signed no PCR policies with the release that runs, so there is nothing to seal to.
Publish a release that has them, which is one built with a UKI: "gatewarden-fleet release build --uki" (docs/updates.md, "PCR policies").

pcr4-missing problem seal
Secure Boot is off, and no PCR policy of the release that runs includes PCR 4: any program could have been started before.
Build releases with "gatewarden-fleet release build --uki", which signs policies with PCR 4 and without, or switch Secure Boot on.

pcr4-wanted advice seal
Secure Boot is off, so that seal takes only PCR policies with PCR 4, which holds every program that was started: any could have been. They fit the boot loader that the release names, and no other.
Build releases with --uki and, where systemd-boot starts it, with --loader; or switch Secure Boot on.
`,
		Ask: lookAtSeal,
	}
}

func lookAtSeal(c *Chip, m *Machine, n *notes) {
	if c.PCRs == nil {
		return // the check pcrs says so
	}
	if c.blank(11) {
		n.is("no-uki", "PCR 11 is zero")
		return
	}
	path := filepath.Join(m.Settings.State, "update", "running.json")
	data, err := m.read(path)
	secured := m.secured()
	switch {
	case absent(err) && !secured:
		n.is("pcr4-wanted", "Secure Boot is off, and no release was taken in yet")
		return
	case absent(err):
		n.ok("no release was taken in yet, whose PCR policies would be known")
		return
	case err != nil:
		n.unseen("read the PCR policies of the release that runs", err)
		return
	}
	r, err := release.Parse(data)
	if err != nil {
		n.unseen("read "+path, err)
		return
	}
	var why []string
	for _, one := range r.PCRPolicies {
		if one.Until != "" {
			continue // for secrets that are shut again after a phase; seal makes none
		}
		err := tpmpolicy.CheckPCRs(one.PCRs, secured)
		if err == nil {
			n.ok("release %s has PCR policies for this machine", r.Version)
			return
		}
		why = append(why, err.Error())
	}
	if len(why) == 0 {
		n.is("no-policies", "release %s has no PCR policy", r.Version)
		return
	}
	n.is("pcr4-missing", "release %s: %s", r.Version, strings.Join(why, "; "))
}
