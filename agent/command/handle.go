package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/internal/ledger"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// Rules of the dispatcher, beside those of policy.
const (
	RuleReplayed = "replayed"  // it began before
	RuleNoPolicy = "no-policy" // the device has no operators document
	RuleVerb     = "verb"      // this release doesn't know the verb
	RuleBusy     = "busy"      // too many commands at a time; it may be sent again
	RuleState    = "state"     // ledger or audit log can't be written, so nothing runs
)

// Handle takes in a command as it arrived. It returns once the command was
// refused or set running; ctx is the context that it runs in. The answer is a
// receipt, in either case.
func (d *Dispatcher) Handle(ctx context.Context, payload []byte) {
	env, err := decode(payload)
	if err != nil {
		d.refuse(wire.Envelope{Command: payload}, &policy.Refusal{Rule: policy.RuleFormat, Text: fmt.Sprintf("The message is no command envelope: %v.", err)})
		return
	}
	// Said at once, though it is asked again when the command's turn has come.
	cmd, _, refusal := d.authorize(env)
	if refusal != nil && d.repeats(env, refusal) {
		return
	}
	if refusal == nil && !d.enqueue() {
		refusal = &policy.Refusal{Rule: RuleBusy, Text: "Too many commands run or wait on this device; send it again later.", ID: cmd.ID, Verb: cmd.Verb}
	}
	if refusal != nil {
		d.refuse(env, refusal)
		return
	}
	d.tasks.Go(func() {
		defer d.dequeue()
		select {
		case d.slots <- struct{}{}:
			defer func() { <-d.slots }()
			d.process(ctx, env)
		case <-ctx.Done(): // it did not begin, so it may be sent again
		}
	})
}

func decode(payload []byte) (wire.Envelope, error) {
	var env wire.Envelope
	if len(payload) > wire.MaxBody {
		return env, fmt.Errorf("longer than %d bytes", wire.MaxBody)
	}
	return env, strictjson.Unmarshal(payload, &env)
}

func (d *Dispatcher) authorize(env wire.Envelope) (wire.Command, []string, *policy.Refusal) {
	operators := d.Operators()
	if operators == nil {
		return wire.Command{}, nil, &policy.Refusal{Rule: RuleNoPolicy, Text: "This device has no operators document, so nobody may command it."}
	}
	now, trusted := d.Now()
	cmd, people, err := operators.Authorize(policy.Request{
		Envelope: env, Fleet: d.Fleet, Device: d.Device, Now: now, TimeTrusted: trusted, Challenge: d.Challenge(),
	})
	var refusal *policy.Refusal
	switch {
	case errors.As(err, &refusal):
		// Delivered again after a restart, when its time or challenge has passed:
		// that it began before is the better answer.
		if e, seen := d.Ledger.Get(refusal.ID); seen && e.Envelope == digest(env.Command) {
			return cmd, nil, replayed(e)
		}
		return cmd, nil, refusal
	case err != nil:
		return cmd, nil, &policy.Refusal{Rule: policy.RuleFormat, Text: err.Error()}
	}
	if e, seen := d.Ledger.Get(cmd.ID); seen {
		return cmd, nil, replayed(e)
	}
	if _, known := d.command(cmd.Verb); !known {
		return cmd, nil, &policy.Refusal{Rule: RuleVerb, Text: fmt.Sprintf("This release doesn't know the verb %q.", cmd.Verb), ID: cmd.ID, Verb: cmd.Verb}
	}
	return cmd, people, nil
}

// repeats reports whether env is the very envelope that is running: the fleet
// delivers at least once, and the receipt is still to come.
func (d *Dispatcher) repeats(env wire.Envelope, r *policy.Refusal) bool {
	e, seen := d.Ledger.Get(r.ID)
	return r.Rule == RuleReplayed && seen && e.Envelope == digest(env.Command) && d.isRunning(r.ID)
}

func replayed(e ledger.Entry) *policy.Refusal {
	state := "it has not ended yet"
	if e.Outcome != "" {
		state = "its outcome was: " + e.Outcome
	}
	return &policy.Refusal{Rule: RuleReplayed, Text: fmt.Sprintf("A command with id %s began before (%s); each runs once.", e.ID, state), ID: e.ID, Verb: e.Verb}
}

// process takes one command from authorisation to receipt.
func (d *Dispatcher) process(ctx context.Context, env wire.Envelope) {
	cmd, people, refusal := d.authorize(env)
	if refusal == nil {
		refusal = d.begin(cmd, env, people)
	}
	if refusal != nil {
		if !d.repeats(env, refusal) {
			d.refuse(env, refusal)
		}
		return
	}
	defer d.ended(cmd.ID)
	body := d.run(ctx, cmd, env)
	if err := d.Ledger.Finish(cmd.ID, body.Outcome); err != nil {
		d.Log.Error("outcome of a command was not stored", "id", cmd.ID, "error", err)
	}
	_ = d.note("command."+body.Outcome, fmt.Sprintf("%s (%s): %s", cmd.Verb, cmd.ID, body.Text))
	d.report(body)
}

// begin makes sure that the command can't run a second time, then says yes.
func (d *Dispatcher) begin(cmd wire.Command, env wire.Envelope, people []string) *policy.Refusal {
	expires := cmd.Expires
	if now, _ := d.Now(); now.After(expires) {
		expires = now // it came with our challenge, so its own dates mean nothing
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.note("command.accepted", fmt.Sprintf("%s (%s), signed by %s: %s", cmd.Verb, cmd.ID, strings.Join(people, ", "), cmd.Reason))
	if err == nil {
		err = d.Ledger.Begin(ledger.Entry{ID: cmd.ID, Verb: cmd.Verb, Envelope: digest(env.Command), Expires: expires})
	}
	if errors.Is(err, ledger.ErrSeen) {
		e, _ := d.Ledger.Get(cmd.ID)
		return replayed(e)
	}
	if err != nil {
		return &policy.Refusal{Rule: RuleState, Text: fmt.Sprintf("This device can't keep its records, so it runs nothing: %v.", err), ID: cmd.ID, Verb: cmd.Verb}
	}
	d.running[cmd.ID] = true
	return nil
}

func (d *Dispatcher) run(ctx context.Context, cmd wire.Command, env wire.Envelope) wire.ReceiptBody {
	body := d.body(env, cmd.ID, cmd.Verb)
	c, _ := d.command(cmd.Verb)
	timeout := c.Timeout
	if timeout == 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	result, err := c.Run(ctx, cmd, env)
	var refusal *policy.Refusal
	switch {
	case errors.As(err, &refusal):
		body.Outcome, body.Rule, body.Text = wire.OutcomeRefused, refusal.Rule, refusal.Text
	case err != nil:
		body.Outcome, body.Text = wire.OutcomeFailed, sentence("The command ran and reported: "+err.Error())
	default:
		body.Outcome, body.Text = wire.OutcomeDone, "Done."
		addResult(&body, result)
	}
	return body
}

func addResult(body *wire.ReceiptBody, result any) {
	if result == nil {
		return
	}
	data, err := json.Marshal(result)
	if err != nil || len(data) > maxResult {
		body.Text = "Done; its result can't be sent."
		return
	}
	body.Result = data
}

func (d *Dispatcher) body(env wire.Envelope, id, verb string) wire.ReceiptBody {
	now, _ := d.Now()
	return wire.ReceiptBody{Version: 1, Device: d.Device, Envelope: digest(env.Command), ID: id, Verb: verb, Time: now.UTC()}
}

func (d *Dispatcher) enqueue() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.waiting >= maxWaiting {
		return false
	}
	d.waiting++
	return true
}

func (d *Dispatcher) dequeue() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting--
}

func (d *Dispatcher) ended(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.running, id)
}

// limiter lets a burst of perMinute through and then that many a minute.
type limiter struct {
	perMinute int
	tokens    float64
	last      time.Time
	started   bool
	dropped   int // since the last one let through
}

func (l *limiter) allow(now time.Time) (earlier int, ok bool) {
	full := float64(l.perMinute)
	if !l.started {
		l.tokens, l.last, l.started = full, now, true
	}
	// A clock that was set back gives nothing and takes nothing.
	if passed := now.Sub(l.last); passed > 0 {
		l.tokens = min(full, l.tokens+passed.Minutes()*full)
	}
	l.last = now
	if l.tokens < 1 {
		l.dropped++
		return 0, false
	}
	l.tokens--
	earlier, l.dropped = l.dropped, 0
	return earlier, true
}
