package command

import (
	"context"

	"github.com/gatewarden/gatewarden/internal/policy"
)

// ping does nothing: its receipt shows that commands arrive and answers return.
func ping(d Deps) Command {
	return plain(policy.VerbPing, func(context.Context) (any, error) {
		return map[string]string{"software": d.Software}, nil
	})
}
