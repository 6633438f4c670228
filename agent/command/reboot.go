package command

import (
	"context"

	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// reboot hands the envelope to the helper, which verifies it again by its own
// policy and ledger and then starts an orderly reboot. Its receipt says that the
// reboot was started.
func reboot(d Deps) Command {
	return Command{Verb: policy.VerbReboot, Run: func(ctx context.Context, cmd wire.Command, env wire.Envelope) (any, error) {
		if err := noArgs(cmd); err != nil {
			return nil, err
		}
		return nil, d.Reboot(ctx, env)
	}}
}
