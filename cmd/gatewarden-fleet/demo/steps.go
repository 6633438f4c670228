package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/operator"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// enrol boots both gateways and has the operator approve them.
func enrol(ctx context.Context, w *world) ([]string, error) {
	var lines []string
	for _, g := range w.gateways {
		if err := w.boot(ctx, g, ""); err != nil {
			return lines, err
		}
		s, err := g.awaitStatus(ctx, "waits for approval", func(s local.Status) bool { return strings.HasPrefix(s.Phase, "waiting") })
		if err != nil {
			return lines, err
		}
		g.id = s.Device
		if s.Certificate != nil {
			return lines, fmt.Errorf("%s has a certificate before anybody approved it", g.name)
		}
		d, err := w.api.Device(ctx, g.id)
		if err != nil {
			return lines, err
		}
		if !d.EKVerified || d.State != "pending" {
			return lines, fmt.Errorf("%s is %s with EK verified %t before approval", g.name, d.State, d.EKVerified)
		}
		if err := w.api.Approve(ctx, g.id, operator.Decision{By: person, Reason: "demo"}); err != nil {
			return lines, fmt.Errorf("approve %s: %w", g.name, err)
		}
		if s, err = g.awaitStatus(ctx, "has its certificate", func(s local.Status) bool { return s.Certificate != nil }); err != nil {
			return lines, err
		}
		lines = append(lines, fmt.Sprintf("%s is %s: EK certificate of its TPM's maker checked, credential activated, key certified by the AK;",
			g.name, g.id), fmt.Sprintf("  approved by %s (firmware values frozen), certificate %s until %s", person, wire.ShortSerial(s.Certificate.Serial),
			s.Certificate.NotAfter.UTC().Format("2 Jan 15:04")))
	}
	return lines, nil
}

// connect waits for the sessions and the first health messages.
func connect(ctx context.Context, w *world) ([]string, error) {
	var lines []string
	for _, g := range w.gateways {
		s, err := g.awaitStatus(ctx, "is connected", func(s local.Status) bool { return s.Link.Connected })
		if err != nil {
			return lines, err
		}
		if _, err := w.challenge(ctx, g); err != nil {
			return lines, err
		}
		d, err := w.api.Device(ctx, g.id)
		if err != nil {
			return lines, err
		}
		var h wire.Health
		if err := json.Unmarshal(d.Health, &h); err != nil {
			return lines, err
		}
		lines = append(lines, fmt.Sprintf("%s is connected as %s; first health message: %s, %d checks", g.name, s.Link.Identity, h.Grade, len(h.Findings)))
	}
	return lines, nil
}

// attested has gateway 1 judged anew and shows the verdict.
func attested(ctx context.Context, w *world) ([]string, error) {
	g := w.gateways[0]
	r, _, err := w.do(ctx, g, "attest", nil)
	if err != nil {
		return nil, err
	}
	d, err := w.api.Device(ctx, g.id)
	if err != nil {
		return nil, err
	}
	if d.Verdict == nil || d.Verdict.Grade != string(attest.Trusted) || d.Verdict.Gate != string(wire.GateFull) {
		return nil, fmt.Errorf("%s is not trusted: %v (%s)", g.name, d.Verdict, r.Text)
	}
	return indent(d.Verdict.Explanation, 8), nil
}

// indent takes the first n lines.
func indent(lines []string, n int) []string {
	if len(lines) <= n {
		return lines
	}
	return append(append([]string(nil), lines[:n]...), fmt.Sprintf("... and %d more (`gatewarden attest` shows all)", len(lines)-n))
}

const (
	loadMessages = 160
	loadRate     = 40 // a second
)

// rotate renews the certificate of gateway 1 while numbered messages flow.
func rotate(ctx context.Context, w *world) ([]string, error) {
	g := w.gateways[0]
	before, err := g.status(ctx)
	if err != nil {
		return nil, err
	}
	run, hash, err := w.startLoad(ctx, g, loadMessages)
	if err != nil {
		return nil, err
	}
	if _, _, err := w.do(ctx, g, "rotate", nil); err != nil {
		return nil, err
	}
	during, err := w.indexes(ctx, g, run)
	if err != nil {
		return nil, err
	}
	if len(during) >= loadMessages {
		return nil, errors.New("the load had ended before the certificate was rotated: nothing was shown")
	}
	if r, err := w.receipt(ctx, g, hash, 1); err != nil || r.Outcome != wire.OutcomeDone {
		return nil, errors.Join(err, fmt.Errorf("link test: %s", r.Text))
	}
	if err := w.awaitLoad(ctx, g, run, loadMessages); err != nil {
		return nil, err
	}
	after, err := g.awaitStatus(ctx, "uses the new certificate", func(s local.Status) bool {
		return s.Link.Connected && s.Certificate.Serial != before.Certificate.Serial
	})
	if err != nil {
		return nil, err
	}
	return []string{
		fmt.Sprintf("certificate %s became %s with a new key in the TPM, proven by a handshake before the old one was dropped", wire.ShortSerial(before.Certificate.Serial), wire.ShortSerial(after.Certificate.Serial)),
		fmt.Sprintf("%d numbered messages at %d a second meanwhile: none lost, none twice", loadMessages, loadRate),
	}, nil
}

// startLoad has g send n numbered messages and returns when the first have arrived.
func (w *world) startLoad(ctx context.Context, g *gateway, n int) (run, hash string, err error) {
	c, err := w.command(ctx, g, "link-test", map[string]int{"messages": n, "rate": loadRate})
	if err != nil {
		return "", "", err
	}
	e, err := w.keys.sign(ctx, c, person)
	if err != nil {
		return "", "", err
	}
	if hash, err = w.api.Command(ctx, g.id, e); err != nil {
		return "", "", err
	}
	return c.ID, hash, await(ctx, "the first test messages arrive", func() (bool, error) {
		got, err := w.indexes(ctx, g, c.ID)
		return len(got) >= 5, err
	})
}

// indexes returns the numbers of the test messages of one run that the fleet has
// taken in, oldest first.
func (w *world) indexes(ctx context.Context, g *gateway, run string) ([]int, error) {
	messages, err := w.server.Store().Messages(ctx, g.id, string(wire.KindLinkTest), 1000)
	if err != nil {
		return nil, err
	}
	var list []int
	for i := len(messages) - 1; i >= 0; i-- {
		var m wire.LinkTest
		if err := json.Unmarshal(messages[i].Body, &m); err != nil {
			return nil, err
		}
		if m.Run == run {
			list = append(list, m.Index)
		}
	}
	return list, nil
}

// awaitLoad waits for n messages of a run and checks that they are 1 to n.
func (w *world) awaitLoad(ctx context.Context, g *gateway, run string, n int) error {
	var got []int
	err := await(ctx, fmt.Sprintf("all %d test messages arrive", n), func() (bool, error) {
		var err error
		got, err = w.indexes(ctx, g, run)
		return len(got) >= n, err
	})
	return errors.Join(err, gapless(got))
}

// gapless checks that list counts 1, 2, 3, ...: nothing lost, nothing twice,
// nothing out of order.
func gapless(list []int) error {
	for i, index := range list {
		if index != i+1 {
			return fmt.Errorf("test message %d arrived where %d was due", index, i+1)
		}
	}
	return nil
}

// obey sends one good command and every kind of bad one to gateway 1.
func obey(ctx context.Context, w *world) ([]string, error) {
	g, other := w.gateways[0], w.gateways[1]
	done, good, err := w.do(ctx, g, "ping", nil)
	if err != nil {
		return nil, err
	}
	var signed wire.Receipt
	if err := json.Unmarshal(done.Signed, &signed); err != nil {
		return nil, err
	}
	lines := []string{fmt.Sprintf("ran       ping: %q; receipt signed by the device's key (certificate %s)", done.Text, wire.ShortSerial(signed.Serial))}
	cases, err := w.badCommands(ctx, g, other, good)
	if err != nil {
		return lines, err
	}
	for _, c := range cases {
		r, err := w.send(ctx, g, c.envelope, c.nth)
		if err != nil {
			return lines, fmt.Errorf("%s: %w", c.name, err)
		}
		if r.Outcome != wire.OutcomeRefused || r.Rule != c.rule {
			return lines, fmt.Errorf("%s: outcome %s by rule %q (%s), want refused by %q", c.name, r.Outcome, r.Rule, r.Text, c.rule)
		}
		lines = append(lines, fmt.Sprintf("refused   %-22s %s", c.name, r.Text))
	}
	return lines, nil
}

// badCommand is an envelope that must be refused by rule; its receipt is the nth
// to these bytes.
type badCommand struct {
	name     string
	rule     string
	envelope wire.Envelope
	nth      int
}

func (w *world) badCommands(ctx context.Context, g, other *gateway, good wire.Envelope) ([]badCommand, error) {
	make := func(change func(*wire.Command), signers ...string) (wire.Envelope, error) {
		c, err := w.command(ctx, g, "ping", nil)
		if err != nil {
			return wire.Envelope{}, err
		}
		change(&c)
		return w.keys.sign(ctx, c, signers...)
	}
	expired, err1 := make(func(c *wire.Command) {
		c.NotBefore, c.Expires, c.Challenge = time.Now().Add(-2*time.Hour).UTC(), time.Now().Add(-time.Hour).UTC(), nil
	}, person)
	elsewhere, err2 := make(func(c *wire.Command) { c.Devices, c.Challenge = []string{other.id}, nil }, person)
	noRole, err3 := make(func(*wire.Command) {}, bystander)
	altered, err4 := make(func(*wire.Command) {}, person)
	unsigned, err5 := make(func(*wire.Command) {})
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return nil, err
	}
	altered.Command[len(altered.Command)-3] ^= 1
	return []badCommand{
		{"replayed", "replayed", good, 2},
		{"expired", "expired", expired, 1},
		{"for another device", "device", elsewhere, 1},
		{"signed without the role", "role", noRole, 1},
		{"altered in one byte", "signature", altered, 1},
		{"unsigned", "unsigned", unsigned, 1},
	}, nil
}
