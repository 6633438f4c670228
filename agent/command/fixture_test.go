package command

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent/audit"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/ledger"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/sshsig/sshsigtest"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const (
	fleet  = "acme-eu"
	device = "gw-abcdefgh234567aa"
)

func start() time.Time { return time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC) }

func key(letter byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(letter), 32)))
}

// machine is a device with one operator, anna, who may do all but reboot, which
// takes her and ben.
type machine struct {
	t        testing.TB
	dir      string
	fs       *fsx.FS
	now      time.Time
	trusted  bool
	calls    chan string // what ran
	put      []wire.LinkTest
	attest   func(ctx context.Context) (any, error)
	noPolicy bool
	signing  error
	sending  error

	mu       sync.Mutex
	receipts []wire.ReceiptBody
	arrived  chan struct{} // one per receipt
}

func newMachine(t testing.TB) *machine {
	m := &machine{t: t, dir: t.TempDir(), fs: &fsx.FS{}, now: start(), trusted: true, calls: make(chan string, 1000), arrived: make(chan struct{}, 1000)}
	m.attest = func(context.Context) (any, error) { m.calls <- policy.VerbAttest; return nil, nil }
	return m
}

func (m *machine) operators() *policy.Operators {
	if m.noPolicy {
		return nil
	}
	line := func(letter byte) string {
		k, err := sshsigtest.Line(key(letter).Public())
		if err != nil {
			m.t.Error(err)
		}
		return k
	}
	one := policy.Grant{People: []string{"anna"}, Threshold: 1}
	data, err := json.Marshal(policy.Operators{
		Version: 1, Issued: start(), Fleet: fleet,
		People: []policy.Person{{Name: "anna", Keys: []string{line('a')}}, {Name: "ben", Keys: []string{line('b')}}},
		Verbs: map[string]policy.Grant{
			policy.VerbPing: one, policy.VerbAttest: one, policy.VerbRotate: one, policy.VerbLinkTest: one,
			policy.VerbReboot: {People: []string{"anna", "ben"}, Threshold: 2},
		},
	})
	if err != nil {
		m.t.Error(err)
	}
	o, err := policy.ParseOperators(data)
	if err != nil {
		m.t.Error(err)
	}
	return o
}

// dispatcher starts the device's agent, as after a power cut if there was one.
func (m *machine) dispatcher() *Dispatcher {
	m.t.Helper()
	once, err1 := ledger.Open(m.fs, filepath.Join(m.dir, "ledger"))
	log, err2 := audit.Open(m.fs, filepath.Join(m.dir, "audit.log"), start)
	verbs, err3 := All(Deps{
		Software: "1.2.3",
		Attest:   func(ctx context.Context) (any, error) { return m.attest(ctx) },
		Rotate:   func(context.Context) (any, error) { m.calls <- policy.VerbRotate; return nil, nil },
		Reboot: func(_ context.Context, env wire.Envelope) error {
			m.calls <- policy.VerbReboot
			return &policy.Refusal{Rule: policy.RuleExpired, Text: "The helper says no."}
		},
		Put: func(kind wire.Kind, body any) error {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.put = append(m.put, body.(wire.LinkTest))
			return nil
		},
	})
	d, err4 := New(Config{
		Fleet: fleet, Device: device, Operators: m.operators, Ledger: once, Audit: log, Commands: verbs,
		Now:       func() (time.Time, bool) { m.mu.Lock(); defer m.mu.Unlock(); return m.now, m.trusted },
		Challenge: func() []byte { return make([]byte, wire.NonceSize) },
		Sign:      func(p []byte) (wire.Receipt, error) { return wire.Receipt{Payload: p}, m.signing },
		Send:      m.receive, Event: func(wire.Event) {},
	})
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(d.Wait) // it writes to the folder until then
	return d
}

func (m *machine) receive(r wire.Receipt) error {
	var body wire.ReceiptBody
	if err := json.Unmarshal(r.Payload, &body); err != nil {
		m.t.Error(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sending != nil {
		return m.sending
	}
	m.receipts = append(m.receipts, body)
	m.arrived <- struct{}{}
	return nil
}

// next returns the next receipt.
func (m *machine) next() wire.ReceiptBody {
	m.t.Helper()
	select {
	case <-m.arrived:
	case <-time.After(2 * time.Minute):
		m.t.Fatal("no receipt arrived")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	body := m.receipts[0]
	m.receipts = m.receipts[1:]
	return body
}

// wantRefused checks that the next receipt is a refusal by rule and nothing ran.
func (m *machine) wantRefused(rule string) wire.ReceiptBody {
	m.t.Helper()
	body := m.next()
	if body.Outcome != wire.OutcomeRefused || body.Rule != rule || body.Device != device || !strings.HasSuffix(body.Text, ".") {
		m.t.Errorf("receipt is %+v, want a refusal by %s", body, rule)
	}
	if len(m.calls) > 0 {
		m.t.Errorf("%s ran", <-m.calls)
	}
	return body
}

func commandFor(verb, id, args string) wire.Command {
	return wire.Command{
		Version: 1, Fleet: fleet, Devices: []string{device}, ID: id, Verb: verb, Args: json.RawMessage(args),
		NotBefore: start().Add(-time.Minute), Expires: start().Add(time.Hour), Reason: "because",
	}
}

func envelope(t testing.TB, c wire.Command, letters string) wire.Envelope {
	t.Helper()
	message, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	env := wire.Envelope{Command: message}
	for _, letter := range []byte(letters) {
		armored, err := sshsigtest.Sign(key(letter), message, wire.CommandNamespace)
		if err != nil {
			t.Fatal(err)
		}
		env.Signatures = append(env.Signatures, string(armored))
	}
	return env
}

func payload(t testing.TB, env wire.Envelope) []byte {
	t.Helper()
	data, err := json.Marshal(env)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func signed(t testing.TB, verb, id, args string) []byte {
	t.Helper()
	return payload(t, envelope(t, commandFor(verb, id, args), "a"))
}
