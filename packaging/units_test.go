package packaging_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/agent"
	"github.com/gatewarden/gatewarden/fleet"
	"github.com/gatewarden/gatewarden/internal/policy"
)

// A default that moves in a program must move in its unit.
func TestUnitsHaveThePathsOfTheDefaults(t *testing.T) {
	a, f := agent.DefaultSettings(), fleet.DefaultSettings()
	for file, lines := range map[string][]string{
		"gatewarden/gatewarden.service": {
			"ConditionPathExists=" + filepath.Join(a.Trust, policy.FleetFile), "ConditionPathExists=" + filepath.Join(a.Trust, policy.OperatorsFile),
			"StateDirectory=" + strings.TrimPrefix(a.State, "/var/lib/"), "ReadWritePaths=" + filepath.Dir(a.Socket),
			"DeviceAllow=" + a.TPM + " rw", "BindPaths=-" + a.TPM,
		},
		"gatewarden/gatewarden.path": {
			"PathChanged=" + filepath.Join(a.Trust, policy.FleetFile), "PathChanged=" + filepath.Join(a.Trust, policy.OperatorsFile),
		},
		"gatewarden/gatewarden-helper.socket":       {"ListenStream=" + a.Helper},
		"gatewarden/gatewarden-helper.service":      {"DeviceAllow=" + a.TPM + " rw"},
		"gatewarden/gatewarden-credentials.socket":  {"ListenStream=" + filepath.Join(filepath.Dir(a.Socket), "credentials.sock")},
		"gatewarden/gatewarden-credentials.service": {"DeviceAllow=" + a.TPM + " rw", "BindPaths=-" + a.TPM},
		"gatewarden/tmpfiles.conf":                  {"d " + filepath.Dir(a.Helper) + " 0750 gatewarden gatewarden -"},
		"gatewarden-fleet/gatewarden-fleet.service": {
			"ConditionPathExists=" + filepath.Join(f.State, "message.key"), "ReadWritePaths=" + filepath.Dir(f.Listen.Operator),
		},
		"gatewarden-fleet/tmpfiles.conf": {"d " + f.State + " 0700 gatewarden-fleet gatewarden-fleet -"},
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			if !strings.Contains("\n"+string(text), "\n"+line+"\n") {
				t.Errorf("%s lacks the line %q", file, line)
			}
		}
	}
}

func TestMaintainerScriptsAreShell(t *testing.T) {
	scripts, err := filepath.Glob("gatewarden*/[dr][ep][bm]/*")
	if err != nil || len(scripts) != 12 {
		t.Fatalf("%d scripts, want 12: %v", len(scripts), err)
	}
	for _, script := range scripts {
		if out, err := exec.Command("sh", "-n", script).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", script, err, out)
		}
	}
}
