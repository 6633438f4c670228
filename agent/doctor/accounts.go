package doctor

import (
	"context"
	"strings"
)

const (
	agentUser = "gatewarden"
	tpmGroup  = "tss"
)

// accounts is whether the users and groups of the units exist.
func accounts() *Check {
	return &Check{
		Name: "accounts", About: "the user and groups that the units name", For: "all",
		Cases: `
missing problem all
The units can't start without this user or group (status=216/GROUP or 217/USER).
Install the package, or run "systemd-sysusers gatewarden.conf"; in an image, "systemd-sysusers --root=ROOTFS gatewarden.conf".
`,
		Look: func(_ context.Context, m *Machine, n *notes) {
			var missing []string
			for _, one := range [][3]string{{"/etc/passwd", agentUser, "user "}, {"/etc/group", agentUser, "group "}, {"/etc/group", tpmGroup, "group "}} {
				id, err := m.id(one[0], one[1])
				if err != nil && !absent(err) {
					n.unseen("look up accounts", err)
					return
				}
				if id < 0 {
					missing = append(missing, one[2]+one[1])
				}
			}
			if len(missing) > 0 {
				n.is("missing", "there is no %s", strings.Join(missing, ", no "))
				return
			}
			n.ok("user %s, groups %[1]s and %s", agentUser, tpmGroup)
		},
	}
}
