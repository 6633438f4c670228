package command

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/gatewarden/gatewarden/internal/ledger"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// Settle answers for commands that began and were never reported: the power went
// while they ran, or before their receipt was kept. Call it at start and whenever
// receipts may work again; it runs nothing.
func (d *Dispatcher) Settle(ctx context.Context) error {
	for _, e := range d.Ledger.Unreported() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if d.isRunning(e.ID) {
			continue
		}
		if err := d.settle(e); err != nil {
			return fmt.Errorf("settle command %s: %w", e.ID, err)
		}
	}
	return nil
}

func (d *Dispatcher) settle(e ledger.Entry) error {
	now, _ := d.Now()
	body := wire.ReceiptBody{Version: 1, Device: d.Device, Envelope: e.Envelope, ID: e.ID, Verb: e.Verb, Outcome: e.Outcome, Time: now.UTC()}
	body.Text = "It ended with this outcome; the agent was stopped before it could say more."
	if e.Outcome == "" {
		body.Outcome = wire.OutcomeUnknown
		body.Text = "The agent was stopped while the command ran. It is not run again."
		if err := d.Ledger.Finish(e.ID, body.Outcome); err != nil {
			return err
		}
		_ = d.note("command.unknown", fmt.Sprintf("%s (%s): %s", e.Verb, e.ID, body.Text))
	}
	if err := d.send(body); err != nil {
		return err
	}
	return d.Ledger.Reported(e.ID)
}

// report sends the receipt of a command that ran. What fails here is made good
// by Settle.
func (d *Dispatcher) report(body wire.ReceiptBody) {
	err := d.send(body)
	if err == nil {
		err = d.Ledger.Reported(body.ID)
	}
	if err != nil {
		d.Log.Error("receipt of a command was not kept", "id", body.ID, "error", err)
	}
}

// refuse answers for a command that does not run. Whoever floods the device with
// garbage gets few answers, and can't crowd out those to operators.
func (d *Dispatcher) refuse(env wire.Envelope, r *policy.Refusal) {
	limit := &d.refusals
	if r.ID != "" {
		limit = &d.signed
	}
	now, _ := d.Now()
	d.mu.Lock()
	earlier, ok := limit.allow(now)
	d.mu.Unlock()
	if !ok {
		return
	}
	body := d.body(env, r.ID, r.Verb)
	body.Outcome, body.Rule, body.Text = wire.OutcomeRefused, r.Rule, sentence(r.Text)
	if earlier > 0 {
		body.Text = sentence(fmt.Sprintf("%s Before it, %d refusals were not reported.", r.Text, earlier))
	}
	_ = d.note("command.refused", fmt.Sprintf("command refused (%s): %s", r.Rule, body.Text))
	if err := d.send(body); err != nil {
		d.Log.Error("receipt of a refusal was not kept", "rule", r.Rule, "error", err)
	}
}

// note writes to the audit log and shows the entry to the fleet. It logs its
// error: only before a command begins does anything depend on it.
func (d *Dispatcher) note(name, text string) error {
	event, err := d.Audit.Append(name, text)
	if err != nil {
		d.Log.Error("audit log was not written", "event", name, "error", err)
		return err
	}
	d.Event(event)
	return nil
}

func (d *Dispatcher) send(body wire.ReceiptBody) error {
	payload, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode receipt: %w", err)
	}
	receipt, err := d.Sign(payload)
	if err != nil {
		return fmt.Errorf("sign receipt: %w", err)
	}
	return d.Send(receipt)
}

func (d *Dispatcher) isRunning(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.running[id]
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// sentence cuts text to what a receipt may carry.
func sentence(text string) string {
	if len(text) > wire.MaxText {
		text = strings.ToValidUTF8(text[:wire.MaxText-3], "") + "..."
	}
	return text
}
