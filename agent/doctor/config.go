package doctor

import (
	"context"
	"errors"
	"io/fs"
)

// config is whether agent.toml can be used.
func config() *Check {
	return &Check{
		Name: "config", About: "agent.toml", For: "all",
		Cases: `
broken problem all
The agent does not start with this configuration. What is said here goes by the built-in values.
Correct it; "gatewarden config check" names line and key.
`,
		Look: func(_ context.Context, m *Machine, n *notes) {
			switch err := m.ConfigErr; {
			case err == nil:
				n.ok("%s is correct", m.Config)
				return
			case absent(err):
				n.ok("there is no %s; the built-in values are used", m.Config)
				return
			case errors.Is(err, fs.ErrPermission):
				n.unseen("read "+m.Config, err)
				return
			default:
				n.is("broken", "%v", err)
			}
		},
	}
}
