package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/fleet/operator"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// enrol has the operator approve the gateway, and waits until it is trusted.
func (w *world) enrol() local.Status {
	w.Helper()
	s := w.until("the gateway waits for approval", agentLimit, isWaiting)
	w.id = s.Device
	d, err := w.api.Device(w.Context(), w.id)
	w.check(err)
	if !d.EKVerified || d.State != "pending" {
		w.Fatalf("the device is %s with EK verified %t before approval", d.State, d.EKVerified)
	}
	w.check(w.api.Approve(w.Context(), w.id, operator.Decision{By: person, Reason: "lab"}))
	return w.judged(trusted, time.Time{})
}

func isWaiting(s local.Status) bool { return strings.HasPrefix(s.Phase, "waiting for an operator") }

// judged waits for a verdict of this grade that is younger than since, over a
// session.
func (w *world) judged(grade string, since time.Time) local.Status {
	w.Helper()
	return w.until("the gateway is judged "+grade, verdictLimit, func(s local.Status) bool {
		return s.Link.Connected && s.Verdict != nil && s.Verdict.Grade == grade && s.Verdict.Issued.After(since)
	})
}

// says fails unless one of the lines has all words.
func (w *world) says(lines []string, words ...string) {
	w.Helper()
	if !hasLine(lines, words) {
		w.Errorf("no line says %q:\n%s", words, strings.Join(lines, "\n"))
	}
}

// hasLine says whether one of the lines has all words.
func hasLine(lines, words []string) bool {
	return slices.ContainsFunc(lines, func(line string) bool {
		return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) })
	})
}

// explanation is the fleet's, of the last verdict.
func (w *world) explanation() []string {
	w.Helper()
	d, err := w.api.Device(w.Context(), w.id)
	w.check(err)
	if d.Verdict == nil {
		w.Fatal("the fleet has no verdict on the device")
	}
	return d.Verdict.Explanation
}

// outcome waits until the fleet knows what became of a release.
func (w *world) outcome(version string, limit time.Duration) wire.Update {
	w.Helper()
	var found wire.Update
	w.Until("the fleet knows what became of release "+version, limit, func() error {
		messages, err := w.server.Store().Messages(w.Context(), w.id, string(wire.KindUpdate), 100)
		if err != nil {
			return err
		}
		last := "nothing"
		for _, m := range messages {
			var u wire.Update
			if err := json.Unmarshal(m.Body, &u); err != nil {
				return err
			}
			if u.Release == version && u.Outcome != "" {
				found = u
				return nil
			}
			if last == "nothing" {
				last = string(m.Body)
			}
		}
		return fmt.Errorf("the fleet knows of %d reports, the last is %s", len(messages), last)
	})
	return found
}

const (
	secretName = "vpn-key"
	secret     = "nobody reads this in another boot"
)

// seal seals a secret to the boots that the owner signed.
func (w *world) seal() {
	w.Helper()
	w.Until("the secret is sealed", agentLimit, func() error {
		out, err := w.vm.Try("printf %s '" + secret + "' | gatewarden seal " + secretName)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	w.opens()
}

// opens waits until the secret opens.
func (w *world) opens() {
	w.Helper()
	w.Until("the secret opens", agentLimit, func() error {
		out, err := w.vm.Try("gatewarden unseal " + secretName)
		if err != nil || out != secret {
			return fmt.Errorf("%v: %s", err, out)
		}
		return nil
	})
}

// staysShut fails unless the secret is refused, for a reason that names word.
func (w *world) staysShut(word string) {
	w.Helper()
	w.until("the agent answers", agentLimit, func(local.Status) bool { return true })
	out, err := w.vm.Try("gatewarden unseal " + secretName)
	if err == nil || !strings.Contains(out, word) || strings.Contains(out, secret) {
		w.Errorf("unsealing in an altered boot: %v: %s", err, out)
	}
}

// hasEntries returns an error unless these are the boot entries of the machine.
func (w *world) hasEntries(want string) error {
	out, err := w.vm.Try("ls /efi/EFI/Linux")
	if got := strings.Join(strings.Fields(out), " "); err != nil || got != want {
		return fmt.Errorf("the boot entries are %s, not %s: %v", got, want, err)
	}
	return nil
}
