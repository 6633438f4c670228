package packaging_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The RPM packages, by rpm in a scratch root: not on Fedora, where SELinux and the
// presets are others.
func TestRPMPackagesKeepWhatTheyMustAndLeaveNothingElse(t *testing.T) {
	scratch(t, "rpm")
	agent1, agent2 := packages(t, "gatewarden-1*.rpm")
	server1, server2 := packages(t, "gatewarden-fleet-1*.rpm")
	m := &machine{t: t, root: system(t)}
	before := m.files()
	rpm := func(args ...string) string {
		return command(t, patience, "rpm", append([]string{"--root=" + m.root, "--nodeps", "--force-debian"}, args...)...)
	}
	rpm("--install", agent1, server1)
	config := filepath.Join(m.root, "etc/gatewarden/agent.toml")
	own := "slot = \"a\"\n"
	write(t, config, own)
	// systemd-tmpfiles, which makes it, needs a booted machine.
	if err := os.MkdirAll(filepath.Join(m.root, "var/lib/gatewarden-fleet"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"etc/gatewarden/trust/fleet.json", "var/lib/gatewarden-fleet/message.key"} {
		write(t, filepath.Join(m.root, file), "kept")
	}
	installed := func(version string) {
		t.Helper()
		out := command(t, patience, "chroot", m.root, "gatewarden", "version")
		if !strings.Contains(out, version) {
			t.Errorf("version is %s, want %s", out, version)
		}
		if text, err := os.ReadFile(config); err != nil || string(text) != own {
			t.Errorf("the configuration is %q, %v", text, err)
		}
		for _, unit := range []string{"multi-user.target.wants/gatewarden.service", "multi-user.target.wants/gatewarden-fleet.path", "sockets.target.wants/gatewarden-helper.socket"} {
			if _, err := os.Lstat(filepath.Join(m.root, "etc/systemd/system", unit)); err != nil {
				t.Error(err)
			}
		}
		for _, user := range []string{"gatewarden", "gatewarden-fleet"} {
			command(t, patience, "chroot", m.root, "id", user)
		}
	}
	installed("1.0.0")
	rpm("--upgrade", agent2, server2)
	installed("1.1.0")
	rpm("--upgrade", "--oldpackage", agent1, server1)
	installed("1.0.0")
	rpm("--upgrade", "--replacepkgs", agent1, server1)
	installed("1.0.0")
	rpm("--erase", "gatewarden", "gatewarden-fleet")
	left := map[string]bool{
		"etc/gatewarden": true, "etc/gatewarden/agent.toml.rpmsave": true, "etc/gatewarden/trust": true, "etc/gatewarden/trust/fleet.json": true,
		"var/lib/gatewarden-fleet": true, "var/lib/gatewarden-fleet/message.key": true,
	}
	after := m.files()
	for _, path := range added(before, after) {
		if !left[path] && !strings.HasPrefix(path, "root/.rpmdb") { // where Debian's rpm has its records
			t.Errorf("left behind: %s", path)
		}
		delete(left, path)
	}
	for path := range left {
		t.Errorf("not kept: %s", path)
	}
}
