package command

import (
	"context"
	"fmt"
	"time"

	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const (
	maxTestMessages = 10_000 // count
	maxTestRate     = 200    // messages a second
	// The slowest test that is accepted takes this long.
	maxTestTime = time.Hour
)

type linkTestArgs struct {
	Messages int `json:"messages"` // 1 to 10000
	Rate     int `json:"rate"`     // 1 to 200 a second
}

func (a linkTestArgs) check() error {
	if a.Messages < 1 || a.Messages > maxTestMessages || a.Rate < 1 || a.Rate > maxTestRate {
		return fmt.Errorf("link-test takes 1 to %d messages at a rate of 1 to %d a second", maxTestMessages, maxTestRate)
	}
	if time.Duration(a.Messages/a.Rate)*time.Second >= maxTestTime {
		return fmt.Errorf("%d messages at %d a second take longer than %v", a.Messages, a.Rate, maxTestTime)
	}
	return nil
}

// linkTest publishes numbered messages at a steady pace, so that the fleet can
// tell whether any was lost or came twice.
func linkTest(d Deps) Command {
	run := func(ctx context.Context, cmd wire.Command, _ wire.Envelope) (any, error) {
		var args linkTestArgs
		if err := decodeArgs(cmd, &args); err != nil {
			return nil, err
		}
		if err := args.check(); err != nil {
			return nil, err
		}
		tick := time.NewTicker(time.Second / time.Duration(args.Rate))
		defer tick.Stop()
		for i := 1; i <= args.Messages; i++ {
			if err := d.Put(wire.KindLinkTest, wire.LinkTest{Run: cmd.ID, Index: i, Of: args.Messages}); err != nil {
				return nil, fmt.Errorf("put message %d of %d: %w", i, args.Messages, err)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil, fmt.Errorf("stop after %d of %d messages: %w", i, args.Messages, ctx.Err())
			}
		}
		return map[string]int{"messages": args.Messages}, nil
	}
	return Command{Verb: policy.VerbLinkTest, Timeout: 2 * maxTestTime, Run: run}
}
