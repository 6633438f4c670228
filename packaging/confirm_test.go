package packaging_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/update/release"
)

const confirmUnit = "systemd/gatewarden-confirm.service"

// systemd-bless-boot marks a boot good after boot-complete.target: the unit must be
// required by that and come before it. It gives up, and the release with it, only
// after the longest confirmation that an owner can sign.
func TestBootCompleteWaitsForTheConfirmation(t *testing.T) {
	data, err := os.ReadFile(confirmUnit)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"Type=oneshot", "Before=boot-complete.target", "RequiredBy=boot-complete.target", "FailureAction=reboot",
		"ExecStart=/usr/bin/gatewarden update confirmed --wait",
		"ConditionPathExists=/sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f",
		"ConditionPathExists=/etc/gatewarden/product.json",
	} {
		if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(line) + `$`).Match(data) {
			t.Errorf("the unit has no line %s", line)
		}
	}
	limit := regexp.MustCompile(`(?m)^TimeoutStartSec=(.*)$`).FindSubmatch(data)
	if limit == nil {
		t.Fatal("the unit has no TimeoutStartSec")
	}
	if d, err := time.ParseDuration(string(limit[1])); err != nil || d <= release.MaxTimeout*time.Second {
		t.Errorf("the unit gives up after %s, a confirmation may take %d seconds (%v)", limit[1], release.MaxTimeout, err)
	}
}

// systemd itself reads the unit, in a root with nothing but what it names.
func TestConfirmUnitIsAcceptedBySystemd(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is missing: install systemd")
	}
	data, err := os.ReadFile(confirmUnit)
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(t.TempDir(), filepath.Base(confirmUnit))
	text := strings.ReplaceAll(string(data), "ExecStart=/usr/bin/gatewarden", "ExecStart=/bin/true") // the package is not installed here
	if err := os.WriteFile(unit, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
