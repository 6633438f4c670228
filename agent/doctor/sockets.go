package doctor

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/gatewarden/gatewarden/internal/policy"
)

// helper is whether the root helper can be asked. It is not asked: that would start it.
func helper() *Check {
	return &Check{
		Name: "helper", About: "the root helper's socket", For: "enrol attest seal update",
		Cases: `
none problem enrol attest seal update
Nobody listens for the agent: the boot's logs can't be read, so that no verdict is better than untrusted, and nothing can be installed, sealed or rebooted.
"systemctl enable --now gatewarden-helper.socket". The helper itself runs only while it is asked.

owner problem enrol attest seal update
The agent may not connect to the helper: the socket is not its user's.
Restart gatewarden-helper.socket; drop-ins of yours must leave SocketUser=gatewarden and SocketMode=0600.
`,
		Look: func(_ context.Context, m *Machine, n *notes) {
			path := m.Settings.Helper
			listens, err := m.listens(path)
			if err != nil {
				n.unseen("look at "+path, err)
				return
			}
			if !listens {
				n.is("none", "nobody listens at %s", path)
				return
			}
			info, stat, err := m.owned(path)
			uid, idErr := m.id("/etc/passwd", agentUser)
			switch {
			case err != nil:
				n.unseen("look at "+path, err)
			case idErr != nil:
				n.unseen("look up the user gatewarden", idErr)
			case int(stat.Uid) != uid || info.Mode().Perm()&0o200 == 0:
				n.is("owner", "%s belongs to user %d with mode %04o; %s is %d", path, stat.Uid, info.Mode().Perm(), agentUser, uid)
			}
			n.ok("the helper's socket is at %s", path)
		},
	}
}

// agentSocket is whether the agent runs.
func agentSocket() *Check {
	return &Check{
		Name: "agent", About: "whether the agent runs", For: "report",
		Cases: `
stopped problem all
The agent has all its documents and does not run.
"systemctl status gatewarden" and "journalctl -u gatewarden" say why; "systemctl enable --now gatewarden.service gatewarden.path" starts it.
`,
		Look: func(_ context.Context, m *Machine, n *notes) {
			path := m.Settings.Socket
			listens, err := m.listens(path)
			switch {
			case err != nil:
				n.unseen("look at "+path, err)
				return
			case listens:
				n.ok("the agent listens at %s", path)
				return
			}
			for _, name := range []string{policy.FleetFile, policy.OperatorsFile} {
				if _, err := m.read(filepath.Join(m.Settings.Trust, name)); absent(err) {
					n.ok("the agent does not run; it waits for its trust documents")
					return
				}
			}
			n.is("stopped", "nobody listens at %s", path)
		},
	}
}

// listens looks for a socket in the kernel's list, without connecting.
func (m *Machine) listens(path string) (bool, error) {
	_, _, err := m.owned(path)
	switch {
	case absent(err):
		return false, nil
	case err != nil:
		return false, err
	}
	list, err := m.read("/proc/net/unix")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(list)) {
		// Num RefCount Protocol Flags Type St Inode Path; __SO_ACCEPTCON is the flag of one who listens.
		if f := strings.Fields(line); len(f) == 8 && f[7] == path && f[3] == "00010000" {
			return true, nil
		}
	}
	return false, nil
}
