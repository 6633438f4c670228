package secret

import (
	"encoding/json"
	"slices"
	"strings"

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

// coversRoot says whether each kernel command line that a release boots with holds a
// hash of its root file system. Command lines are measured; a root file system is not.
func coversRoot(r *release.Release) bool {
	type boot struct {
		CommandLines []string `json:"command_lines"`
	}
	var boots []boot // one for each slot
	if json.Unmarshal(r.Reference, &boots) != nil {
		boots = make([]boot, 1)
		if json.Unmarshal(r.Reference, &boots[0]) != nil {
			return false
		}
	}
	var lines []string
	for _, b := range boots {
		if len(b.CommandLines) == 0 {
			return false
		}
		lines = append(lines, b.CommandLines...)
	}
	return len(lines) > 0 && !slices.ContainsFunc(lines, func(line string) bool { return !HashesRoot(line) })
}

// HashesRoot says whether a kernel command line holds a hash of the root file system
// (systemd-veritysetup-generator(8), or dm-init in the kernel).
func HashesRoot(line string) bool {
	return slices.ContainsFunc(strings.Fields(line), func(word string) bool {
		key, value, _ := strings.Cut(word, "=")
		return value != "" && (key == "roothash" || key == "dm-mod.create" && strings.Contains(line, "verity"))
	})
}
