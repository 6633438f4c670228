package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/ledger"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const id = "0123456789abcdef"

func TestSignedCommandRunsAndItsReceiptNamesIt(t *testing.T) {
	m := newMachine(t)
	d := m.dispatcher()
	env := envelope(t, commandFor(policy.VerbPing, id, ""), "a")
	d.Handle(t.Context(), payload(t, env))
	body := m.next()
	if body.Outcome != wire.OutcomeDone || body.ID != id || body.Verb != policy.VerbPing || body.Envelope != digest(env.Command) ||
		body.Device != device || string(body.Result) != `{"software":"1.2.3"}` || !body.Time.Equal(start()) {
		t.Errorf("receipt is %+v", body)
	}
	d.Wait()
	if e, _ := d.Ledger.Get(id); e.Outcome != wire.OutcomeDone || !e.Reported {
		t.Errorf("ledger says %+v", e)
	}
}

func TestEachVerbReachesItsFunction(t *testing.T) {
	m := newMachine(t)
	d := m.dispatcher()
	for _, verb := range []string{policy.VerbAttest, policy.VerbRotate} {
		d.Handle(t.Context(), signed(t, verb, id+verb, "{}"))
		if got := m.next(); got.Outcome != wire.OutcomeDone || <-m.calls != verb {
			t.Errorf("%s: %+v", verb, got)
		}
		d.Handle(t.Context(), signed(t, verb, id+verb+"-2", `{"x":1}`))
		if got := m.next(); got.Outcome != wire.OutcomeFailed || len(m.calls) > 0 {
			t.Errorf("%s with unknown arguments: %+v", verb, got)
		}
	}
	d.Handle(t.Context(), payload(t, envelope(t, commandFor(policy.VerbReboot, id+"-reboot", ""), "ab")))
	if got := m.next(); got.Outcome != wire.OutcomeRefused || got.Rule != policy.RuleExpired || <-m.calls != policy.VerbReboot {
		t.Errorf("a refusal by the helper became %+v", got)
	}
}

func TestReplayedCommandIsRefused(t *testing.T) {
	m := newMachine(t)
	message := signed(t, policy.VerbAttest, id, "")
	d := m.dispatcher()
	d.Handle(t.Context(), message)
	m.next()
	<-m.calls
	d.Handle(t.Context(), message)
	m.wantRefused(RuleReplayed)
	d.Wait()
	m.dispatcher().Handle(t.Context(), message) // after a restart
	if body := m.wantRefused(RuleReplayed); !strings.Contains(body.Text, "done") {
		t.Errorf("the refusal does not say what became of it: %s", body.Text)
	}
	again := envelope(t, commandFor(policy.VerbRotate, id, ""), "a") // another command of the same id
	m.dispatcher().Handle(t.Context(), payload(t, again))
	m.wantRefused(RuleReplayed)
}

// The fleet delivers again what it has no receipt for, also after a restart, when
// time and challenge are others: that the command began is what it must hear.
func TestRedeliveryAfterARestartIsCalledAReplayNotStale(t *testing.T) {
	m := newMachine(t)
	message := signed(t, policy.VerbAttest, id, "")
	d := m.dispatcher()
	d.Handle(t.Context(), message)
	m.next()
	<-m.calls
	d.Wait()
	m.now, m.trusted = start().AddDate(1, 0, 0), false
	m.dispatcher().Handle(t.Context(), message)
	m.wantRefused(RuleReplayed)
}

// A second copy that arrives while the first runs is answered by the first's receipt.
func TestCopyOfTheRunningCommandGetsNoAnswerOfItsOwn(t *testing.T) {
	m := newMachine(t)
	d := m.dispatcher()
	release := make(chan struct{})
	m.attest = func(context.Context) (any, error) { m.calls <- "began"; <-release; return nil, nil }
	message := signed(t, policy.VerbAttest, id, "")
	d.Handle(t.Context(), message)
	<-m.calls
	d.Handle(t.Context(), message)
	close(release)
	d.Wait()
	if body := m.next(); body.Outcome != wire.OutcomeDone {
		t.Errorf("receipt is %+v", body)
	}
	if n := len(m.arrived); n != 0 {
		t.Errorf("%d answers too many", n)
	}
}

// A hundred copies at once, as a broker may deliver them: one runs.
func TestHundredCopiesRunOnce(t *testing.T) {
	m := newMachine(t)
	d := m.dispatcher()
	message := signed(t, policy.VerbAttest, id, "")
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() { d.Handle(t.Context(), message) })
	}
	wg.Wait()
	for done := 0; done == 0; {
		if body := m.next(); body.Outcome == wire.OutcomeDone {
			done++
		}
	}
	d.Wait()
	if n := len(m.calls); n != 1 {
		t.Errorf("it ran %d times", n)
	}
}

func TestRefusals(t *testing.T) {
	env := func(change func(*wire.Command), letters string) []byte {
		c := commandFor(policy.VerbAttest, id, "")
		change(&c)
		return payload(t, envelope(t, c, letters))
	}
	altered := envelope(t, commandFor(policy.VerbAttest, id, ""), "a")
	altered.Command[20] ^= 1
	asis := func(*wire.Command) {}
	for name, c := range map[string]struct {
		message []byte
		rule    string
	}{
		"garbage":        {[]byte("garbage"), policy.RuleFormat},
		"too long":       {make([]byte, wire.MaxBody+1), policy.RuleFormat},
		"sender's topic": {[]byte(`{"command":"","signatures":[],"reply_to":"gw/v1/other/up/receipt"}`), policy.RuleFormat},
		"unsigned":       {env(asis, ""), policy.RuleUnsigned},
		"without role":   {env(asis, "x"), policy.RuleRole},
		"not anna's":     {env(asis, "b"), policy.RuleRole},
		"one of two":     {env(func(c *wire.Command) { c.Verb = policy.VerbReboot }, "a"), policy.RuleThreshold},
		"altered":        {payload(t, altered), policy.RuleSignature},
		"other device":   {env(func(c *wire.Command) { c.Devices = []string{"gw-zzzzzzzz234567aa"} }, "a"), policy.RuleDevice},
		"other fleet":    {env(func(c *wire.Command) { c.Fleet = "acme-us" }, "a"), policy.RuleFleet},
		"expired":        {env(func(c *wire.Command) { c.Expires = start().Add(-time.Second) }, "a"), policy.RuleExpired},
		"not yet":        {env(func(c *wire.Command) { c.NotBefore = start().Add(time.Second) }, "a"), policy.RuleNotYet},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			d := m.dispatcher()
			d.Handle(t.Context(), c.message)
			m.wantRefused(c.rule)
			if list, _ := d.Audit.Tail(1); len(list) != 1 || list[0].Name != "command.refused" {
				t.Errorf("audit log ends with %+v", list)
			}
			if _, seen := d.Ledger.Get(id); seen {
				t.Error("a refused command used up its id")
			}
		})
	}
}

func TestWithoutTrustedTimeTheChallengeDecides(t *testing.T) {
	m := newMachine(t)
	m.now, m.trusted = time.Unix(0, 0), false
	d := m.dispatcher()
	c := commandFor(policy.VerbAttest, id, "")
	d.Handle(t.Context(), payload(t, envelope(t, c, "a")))
	m.wantRefused(policy.RuleNotYet)
	c.Challenge = map[string][]byte{device: make([]byte, wire.NonceSize)}
	d.Handle(t.Context(), payload(t, envelope(t, c, "a")))
	if body := m.next(); body.Outcome != wire.OutcomeDone {
		t.Errorf("receipt is %+v", body)
	}
}

func TestWithoutPolicyNobodyCommands(t *testing.T) {
	m := newMachine(t)
	m.noPolicy = true
	m.dispatcher().Handle(t.Context(), signed(t, policy.VerbAttest, id, ""))
	m.wantRefused(RuleNoPolicy)
}

// The power goes between begin and finish: the receipt of the next start says so,
// and nothing runs again.
func TestPowerCutWhileRunningIsReportedAndNotRepeated(t *testing.T) {
	m := newMachine(t)
	d := m.dispatcher()
	env := envelope(t, commandFor(policy.VerbAttest, id, ""), "a")
	if err := d.Ledger.Begin(ledger.Entry{ID: id, Verb: policy.VerbAttest, Envelope: digest(env.Command), Expires: start()}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		d = m.dispatcher()
		if err := d.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	body := m.next()
	if body.Outcome != wire.OutcomeUnknown || body.ID != id || body.Envelope != digest(env.Command) || len(m.receipts) != 0 {
		t.Errorf("receipt is %+v, and %d more", body, len(m.receipts))
	}
	d.Handle(t.Context(), payload(t, env))
	m.wantRefused(RuleReplayed)
}

// The receipt could not be signed or kept: the next start sends one that agrees.
func TestReceiptThatWasNotKeptIsMadeGood(t *testing.T) {
	for name, fail := range map[string]func(*machine, error){
		"sign": func(m *machine, err error) { m.signing = err },
		"send": func(m *machine, err error) { m.sending = err },
	} {
		m := newMachine(t)
		d := m.dispatcher()
		fail(m, errors.New("the TPM is busy"))
		d.Handle(t.Context(), signed(t, policy.VerbAttest, id, ""))
		<-m.calls
		d.Wait()
		if err := d.Settle(t.Context()); err == nil {
			t.Errorf("%s: settled although nothing works", name)
		}
		fail(m, nil)
		for range 2 {
			if err := m.dispatcher().Settle(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if body := m.next(); body.Outcome != wire.OutcomeDone || len(m.receipts) != 0 {
			t.Errorf("%s: receipt is %+v, and %d more", name, body, len(m.receipts))
		}
	}
}

func TestSettleLeavesRunningCommandsAlone(t *testing.T) {
	m := newMachine(t)
	d := m.dispatcher()
	release := make(chan struct{})
	m.attest = func(context.Context) (any, error) { m.calls <- "began"; <-release; return nil, nil }
	d.Handle(t.Context(), signed(t, policy.VerbAttest, id, ""))
	<-m.calls
	if err := d.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(release)
	if body := m.next(); body.Outcome != wire.OutcomeDone {
		t.Errorf("receipt is %+v", body)
	}
	d.Wait()
}

func TestFullDiskRunsNothing(t *testing.T) {
	m := newMachine(t)
	d := m.dispatcher()
	m.fs.Hook = func(op, _ string) error {
		if op == fsx.OpWrite {
			return errors.New("no space left on device")
		}
		return nil
	}
	d.Handle(t.Context(), signed(t, policy.VerbAttest, id, ""))
	m.wantRefused(RuleState)
	m.fs.Hook = nil
	d.Handle(t.Context(), signed(t, policy.VerbAttest, id, ""))
	if body := m.next(); body.Outcome != wire.OutcomeDone {
		t.Errorf("with room again: %+v", body)
	}
}

func TestLongCommandDoesNotBlockOthers(t *testing.T) {
	m := newMachine(t)
	d := m.dispatcher()
	release := make(chan struct{})
	m.attest = func(ctx context.Context) (any, error) { <-release; return nil, nil }
	for i := range maxRunning - 1 {
		d.Handle(t.Context(), signed(t, policy.VerbAttest, fmt.Sprintf("%s-%d", id, i), ""))
	}
	d.Handle(t.Context(), signed(t, policy.VerbPing, id, ""))
	if body := m.next(); body.Verb != policy.VerbPing {
		t.Errorf("receipt is %+v", body)
	}
	close(release)
	d.Wait()
}

func TestTooManyCommandsAreRefusedAndMayComeAgain(t *testing.T) {
	m := newMachine(t)
	d := m.dispatcher()
	release := make(chan struct{})
	m.attest = func(ctx context.Context) (any, error) { <-release; return nil, nil }
	for i := range maxWaiting {
		d.Handle(t.Context(), signed(t, policy.VerbAttest, fmt.Sprintf("%s-%d", id, i), ""))
	}
	last := signed(t, policy.VerbPing, id, "")
	d.Handle(t.Context(), last)
	m.wantRefused(RuleBusy)
	close(release)
	d.Wait()
	for range maxWaiting {
		m.next()
	}
	d.Handle(t.Context(), last)
	if body := m.next(); body.Outcome != wire.OutcomeDone {
		t.Errorf("receipt is %+v", body)
	}
}

// A flood of garbage gets few answers and takes none from the operators.
func TestGarbageCannotFlood(t *testing.T) {
	m := newMachine(t)
	d := m.dispatcher()
	for range 1000 {
		d.Handle(t.Context(), []byte("garbage"))
	}
	if n := len(m.arrived); n != 10 {
		t.Errorf("%d receipts for 1000 pieces of garbage", n)
	}
	index, _ := d.Audit.Head()
	if index != 10 {
		t.Errorf("%d audit entries", index)
	}
	for range 10 {
		m.next()
	}
	d.Handle(t.Context(), payload(t, envelope(t, commandFor(policy.VerbReboot, id, ""), "a")))
	m.wantRefused(policy.RuleThreshold)
	m.mu.Lock()
	m.now = m.now.Add(6 * time.Second)
	m.mu.Unlock()
	d.Handle(t.Context(), []byte("garbage"))
	if body := m.wantRefused(policy.RuleFormat); !strings.Contains(body.Text, "990 refusals") {
		t.Errorf("the next answer does not count the dropped ones: %s", body.Text)
	}
}

func TestLimiterSurvivesAClockSetBack(t *testing.T) {
	l := limiter{perMinute: 1}
	if _, ok := l.allow(start()); !ok {
		t.Error("refused at first")
	}
	if _, ok := l.allow(start().AddDate(-1, 0, 0)); ok {
		t.Error("a clock that was set back gave more")
	}
	if _, ok := l.allow(start().AddDate(-1, 0, 0).Add(time.Minute)); !ok {
		t.Error("refused for a year")
	}
}

func TestLinkTestIsNumberedAndPaced(t *testing.T) {
	m := newMachine(t)
	d := m.dispatcher()
	began := time.Now()
	d.Handle(t.Context(), signed(t, policy.VerbLinkTest, id, `{"messages":20,"rate":200}`))
	if body := m.next(); body.Outcome != wire.OutcomeDone || string(body.Result) != `{"messages":20}` {
		t.Errorf("receipt is %+v", body)
	}
	if took := time.Since(began); took < 90*time.Millisecond {
		t.Errorf("20 messages at 200 a second took only %v", took)
	}
	for i, got := range m.put {
		if got != (wire.LinkTest{Run: id, Index: i + 1, Of: 20}) {
			t.Errorf("message %d is %+v", i+1, got)
		}
	}
	if len(m.put) != 20 {
		t.Errorf("%d messages", len(m.put))
	}
}

func TestLinkTestRefusesWhatItCannotDo(t *testing.T) {
	m := newMachine(t)
	d := m.dispatcher()
	for i, args := range []string{
		`{}`, `{"messages":0,"rate":1}`, `{"messages":10001,"rate":200}`, `{"messages":1,"rate":201}`,
		`{"messages":1,"rate":-1}`, `{"messages":10000,"rate":1}`, `{"messages":1,"rate":1,"x":1}`, `{"messages":1.5,"rate":1}`,
	} {
		d.Handle(t.Context(), signed(t, policy.VerbLinkTest, fmt.Sprintf("%s-%d", id, i), args))
		if body := m.next(); body.Outcome != wire.OutcomeFailed || len(m.put) > 0 {
			t.Errorf("%s: %+v", args, body)
		}
	}
}

func TestStoppedCommandIsReportedAsFailed(t *testing.T) {
	m := newMachine(t)
	d := m.dispatcher()
	ctx, cancel := context.WithCancel(t.Context())
	d.Handle(ctx, signed(t, policy.VerbLinkTest, id, `{"messages":100,"rate":1}`))
	for m.sent() == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if body := m.next(); body.Outcome != wire.OutcomeFailed || !strings.Contains(body.Text, "1 of 100") {
		t.Errorf("receipt is %+v", body)
	}
	d.Wait()
}

func (m *machine) sent() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.put)
}

func TestHugeResultIsLeftOut(t *testing.T) {
	m := newMachine(t)
	m.attest = func(context.Context) (any, error) { return strings.Repeat("x", maxResult), nil }
	m.dispatcher().Handle(t.Context(), signed(t, policy.VerbAttest, id, ""))
	if body := m.next(); body.Outcome != wire.OutcomeDone || body.Result != nil {
		t.Errorf("receipt has %d bytes of result", len(body.Result))
	}
}

func TestIncompleteConfigurationIsRefused(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("accepted an empty Config")
	}
	if _, err := All(Deps{}); err == nil {
		t.Error("accepted empty Deps")
	}
}

func TestEveryCommandCanBeGrantedAndEveryGrantDone(t *testing.T) {
	d := newMachine(t).dispatcher()
	for _, verb := range policy.Verbs() {
		if _, ok := d.command(verb); !ok {
			t.Errorf("policy knows %s, all.go does not", verb)
		}
	}
	if len(d.Commands) != len(policy.Verbs()) {
		t.Errorf("%d commands, %d verbs in policy", len(d.Commands), len(policy.Verbs()))
	}
}

// FuzzHandle: nothing that arrives unsigned panics or runs.
func FuzzHandle(f *testing.F) {
	f.Add(payload(f, wire.Envelope{Command: []byte("{}")}))
	m := newMachine(f)
	d := m.dispatcher()
	f.Fuzz(func(t *testing.T, data []byte) {
		d.Handle(t.Context(), data)
		d.Wait()
		if len(d.Ledger.Unreported()) > 0 {
			t.Error("something began")
		}
		if _, err := os.Stat(filepath.Join(m.dir, "audit.log.1")); err == nil {
			t.Error("garbage turned the audit log over")
		}
	})
}
