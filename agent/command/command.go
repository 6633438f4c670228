// Package command runs what operators signed: each command once, only after the
// fleet's policy allowed it, and never without an answer.
//
// What it does, it does in this order: verify the signatures, read the command,
// authorise it, note in the audit log and durably in the ledger that it begins,
// run it, note the outcome, put a signed receipt in the outbox, note that too. A
// power cut anywhere leaves a command that did not begin, or one whose receipt
// goes out at the next start; never one that runs twice.
package command

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/gatewarden/gatewarden/agent/audit"
	"github.com/gatewarden/gatewarden/internal/ledger"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const (
	maxRunning     = 4        // commands that run at a time, count
	maxWaiting     = 32       // commands that run or wait to, count
	maxResult      = 16 << 10 // bytes of a result
	defaultTimeout = 2 * time.Minute
)

// Command is something that a device can be told to do.
type Command struct {
	Verb    string
	Timeout time.Duration // 0: two minutes
	// Run does it. env is the whole envelope, for those who want to verify it
	// themselves. The result goes into the receipt as JSON, at most 16 KiB of it.
	// A *policy.Refusal as error says that it was not done.
	Run func(ctx context.Context, cmd wire.Command, env wire.Envelope) (result any, err error)
}

// Config of a Dispatcher. Log may be nil; all else is required.
type Config struct {
	Fleet, Device string
	Operators     func() *policy.Operators             // the policy in force; nil while there is none
	Now           func() (now time.Time, trusted bool) // agent/clock's Now
	Challenge     func() []byte                        // the device's current challenge
	Sign          func([]byte) (wire.Receipt, error)   // by the operational key
	Send          func(wire.Receipt) error             // into the outbox; durable when it returns
	Event         func(wire.Event)                     // an audit entry that the fleet should see
	Ledger        *ledger.Ledger
	Audit         *audit.Log
	Commands      []Command
	Log           *slog.Logger
}

// Dispatcher is safe for concurrent use.
type Dispatcher struct {
	Config
	slots    chan struct{}
	refusals limiter // of what nobody we know signed
	signed   limiter // of what operators signed

	mu      sync.Mutex
	waiting int
	running map[string]bool // ids
	tasks   sync.WaitGroup
}

// New checks c and makes a Dispatcher.
func New(c Config) (*Dispatcher, error) {
	if c.Fleet == "" || c.Device == "" || c.Operators == nil || c.Now == nil || c.Challenge == nil || c.Sign == nil ||
		c.Send == nil || c.Event == nil || c.Ledger == nil || c.Audit == nil || len(c.Commands) == 0 {
		return nil, errors.New("command dispatcher: incomplete configuration")
	}
	for _, cmd := range c.Commands {
		if cmd.Verb == "" || cmd.Run == nil {
			return nil, errors.New("command dispatcher: a command lacks verb or function")
		}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Dispatcher{
		Config: c, slots: make(chan struct{}, maxRunning), running: make(map[string]bool),
		refusals: limiter{perMinute: 10}, signed: limiter{perMinute: 60},
	}, nil
}

// Wait returns when no command runs any more: cancel their context first.
func (d *Dispatcher) Wait() { d.tasks.Wait() }

func (d *Dispatcher) command(verb string) (Command, bool) {
	for _, c := range d.Commands {
		if c.Verb == verb {
			return c, true
		}
	}
	return Command{}, false
}
