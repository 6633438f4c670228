package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// Deps is what the commands need of the agent. All fields are required.
type Deps struct {
	Software string                                                   // the agent's version
	Attest   func(ctx context.Context) (result any, err error)        // attests now and returns the verdict
	Rotate   func(ctx context.Context) (result any, err error)        // renews the certificate with a new key
	Put      func(kind wire.Kind, body any) error                     // into the outbox; durable when it returns
	Reboot   func(ctx context.Context, env wire.Envelope) (err error) // helper/client's Reboot
}

// All lists what a device can be told to do. The verbs have to be in
// policy.Verbs as well, to be granted.
func All(d Deps) ([]Command, error) {
	if d.Software == "" || d.Attest == nil || d.Rotate == nil || d.Put == nil || d.Reboot == nil {
		return nil, errors.New("commands: incomplete dependencies")
	}
	return []Command{
		ping(d),
		attest(d),
		rotate(d),
		linkTest(d),
		reboot(d),
	}, nil
}

// plain is a verb without arguments.
func plain(verb string, do func(ctx context.Context) (any, error)) Command {
	return Command{Verb: verb, Run: func(ctx context.Context, cmd wire.Command, _ wire.Envelope) (any, error) {
		if err := noArgs(cmd); err != nil {
			return nil, err
		}
		return do(ctx)
	}}
}

// noArgs refuses arguments where a verb takes none.
func noArgs(cmd wire.Command) error { return decodeArgs(cmd, &struct{}{}) }

// decodeArgs decodes arguments strictly; absent ones are an empty object.
func decodeArgs(cmd wire.Command, into any) error {
	args := cmd.Args
	if len(args) == 0 {
		args = json.RawMessage("{}")
	}
	if err := strictjson.Unmarshal(args, into); err != nil {
		return fmt.Errorf("read arguments of %s: %w", cmd.Verb, err)
	}
	return nil
}
