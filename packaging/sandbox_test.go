package packaging_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The installed unit, byte for byte, runs a program that tries what a hijacked
// agent would. What root can't do in a container either shows nothing, and is said.
func TestAgentsUnitLetsItDoOnlyItsWork(t *testing.T) {
	scratch(t, "systemd-nspawn", "nsenter")
	deb, _ := packages(t, "gatewarden_*.deb")
	m := boot(t, "")
	m.install(deb)
	probe := filepath.Join(t.TempDir(), "probe")
	build := exec.Command("go", "build", "-o", probe, "./probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build probe: %v\n%s", err, out)
	}
	program, err := os.ReadFile(probe)
	if err != nil {
		t.Fatal(err)
	}
	agent := filepath.Join(m.root, "usr/bin/gatewarden")
	if err := os.WriteFile(agent+".new", program, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(agent+".new", agent); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"fleet.json", "operators.json"} {
		put(m, "etc/gatewarden/trust/"+name, []byte("{}"))
	}
	m.run("systemctl", "start", "gatewarden") // a second time, if the path unit was quicker
	closed := results(t, m.run("journalctl", "--no-pager", "-o", "cat", "-u", "gatewarden"))
	open := results(t, m.run("/usr/bin/gatewarden"))
	if len(closed) == 0 || len(closed) != len(open) {
		t.Fatalf("%d attempts in the unit, %d outside", len(closed), len(open))
	}
	beyond := []string{"open a block device", "socket AF_ALG", "socket AF_BLUETOOTH", "socket AF_CAN", "socket AF_VSOCK"} // not every kernel has them
	for name, why := range closed {
		switch own := strings.HasPrefix(name, "own: "); {
		case own && why != "":
			t.Errorf("the agent needs this, and it fails: %s: %s", name, why)
		case !own && why == "":
			t.Errorf("the unit lets it %s", name)
		case !own && open[name] != "" && !slices.Contains(beyond, name):
			t.Errorf("it works nowhere, so it shows nothing: %s: %s", name, open[name])
		case !own && open[name] != "":
			t.Logf("not shown here, root can't do it in this machine either: %s: %s", name, open[name])
		}
	}
}

// The helper has no capability, and the reboot is the one program that it runs.
func TestHelpersUnitCanReboot(t *testing.T) {
	scratch(t, "systemd-nspawn", "nsenter")
	deb, _ := packages(t, "gatewarden_*.deb")
	m := boot(t, "")
	m.install(deb)
	dropIn := filepath.Join(m.root, "etc/systemd/system/gatewarden-helper.service.d")
	if err := os.MkdirAll(dropIn, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dropIn, "test.conf"), "[Service]\nExecStart=\nExecStart=/usr/bin/systemctl reboot\n")
	m.run("systemctl", "daemon-reload")
	m.run("systemctl", "start", "--no-block", "gatewarden-helper.service")
	m.await("reboot", func() error {
		if text := content(m.console); !strings.Contains(text.Error(), "Rebooting.") {
			return text
		}
		return nil
	})
}

func results(t *testing.T, output string) map[string]string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^probe: (\{.*\})$`).FindStringSubmatch(output)
	if m == nil {
		t.Fatalf("the probe said nothing:\n%s", output)
	}
	var r map[string]string
	if err := json.Unmarshal([]byte(m[1]), &r); err != nil {
		t.Fatal(err)
	}
	return r
}
