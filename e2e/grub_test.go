package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/e2e/lab/image"
)

// Story 8: GRUB starts the boot image, with the command line of its configuration. What
// it ran and read is told; a word that was added there distrusts, and is named.
func TestABootByGRUBIsAttestedAndItsAlteredCommandLineIsNamed(t *testing.T) {
	inFull(t)
	w := newWorld(t, setup{chain: true})
	w.enrol()
	line := image.Release{Deb: w.deb}.CommandLine("a")
	w.says(w.explanation(), "held", "kernel command line `"+line+"` is part of gwlab 1.0.0")
	policy := w.policyOfThisBoot()
	w.tellsGRUB(policy, attest.Trusted, line)
	log := strings.Split(w.vm.Run("gatewarden attest log"), "\n")
	w.says(log, "chainloader", line)
	w.says(log, "replays to the TPM's PCRs", "8, 9, 11")

	config := "/efi/" + image.GrubConfig
	w.vm.Run("cp " + config + " /var/lib/lab/grub.cfg; sed -i 's/^chainloader .*/& lab.evil=1/' " + config + "; sync")
	began := time.Now()
	w.vm.Reboot()
	w.judged("untrusted", began)
	lines := w.explanation()
	t.Log(strings.Join(lines, "\n"))
	w.says(lines[:1], "untrusted: kernel command line:", "systemd.show_status=0 lab.evil=1`", "PCR 12", "not part of any release")
	w.says(lines, "changed since the last trusted boot: kernel command line", "lab.evil=1")
	w.tellsGRUB(policy, attest.Untrusted, line+" lab.evil=1")

	w.vm.Run("cp /var/lib/lab/grub.cfg " + config + "; sync")
	began = time.Now()
	w.vm.Reboot()
	w.judged(trusted, began)
}

// policyOfThisBoot is the file of a policy with what the machine's event log holds, as
// docs/policy.md has an owner make it.
func (w *world) policyOfThisBoot() string {
	w.Helper()
	log, policy := filepath.Join(w.dir, "eventlog"), filepath.Join(w.dir, "policy.json")
	w.check(os.WriteFile(log, w.vm.Get("/sys/kernel/security/tpm0/binary_bios_measurements"), 0o600))
	document, err := w.tryOperate("policy", "learn", log, "--fleet", fleetID, "--product", image.Product, "--version", "1.0.0")
	w.check(err)
	w.check(os.WriteFile(policy, []byte(document), 0o600))
	return policy
}

// tellsGRUB fails unless the facts of the last verdict have GRUB's commands, the files
// that it read and the kernel's command line. They come from the evidence, judged once
// more without the server.
func (w *world) tellsGRUB(policy string, grade attest.Grade, line string) {
	w.Helper()
	evidence := filepath.Join(w.dir, "evidence.json")
	w.check(os.WriteFile(evidence, []byte(w.operate("devices", "evidence", w.id)), 0o600))
	out, err := w.tryOperate("verify", evidence, "--policy", policy, "--json") // its exit code is the grade
	var told struct {
		Grade attest.Grade
		Facts attest.Facts
	}
	if json.Unmarshal([]byte(out), &told) != nil || told.Grade != grade {
		w.Fatalf("the evidence was judged %s: %v: %s", told.Grade, err, out)
	}
	f := told.Facts
	read := func(name string) bool {
		return slices.ContainsFunc(f.Files, func(l attest.Loaded) bool { return strings.Contains(l.Described, name) && !l.Digest.IsZero() })
	}
	if !slices.Contains(f.GRUB, "chainloader /EFI/Linux/gw-a.efi "+line) || !read("grub.cfg") || !read("gw-a.efi") ||
		len(f.CommandLines) == 0 || f.CommandLines[0].Text != line {
		w.Errorf("GRUB ran %q, read %+v; the kernel got %+v", f.GRUB, f.Files, f.CommandLines)
	}
}
