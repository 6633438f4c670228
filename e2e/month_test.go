package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent/identity"
	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const (
	aDay  = 24 * time.Hour
	month = 31 * aDay
)

// wrong is a clock that a machine may have when it starts, and part of why the gateway
// then asks for a certificate.
type wrong struct {
	name  string
	shows time.Time // zero: it is right
	asks  string
}

func clocks() []wrong {
	// systemd believes neither 1999 nor what is more than 15 years after it was built.
	return []wrong{
		{"right", time.Time{}, "the certificate has expired"},
		{"at the beginning", time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), "refuses"},
		{"ten years ahead", time.Date(2036, 6, 1, 0, 0, 0, 0, time.UTC), "the certificate has expired"},
	}
}

// Story 7: the fleet is out of reach for a month, in which every certificate expires;
// then for another, after which the machine's clock stands at the beginning; then for a
// third, and the clock is ten years ahead. Each time the gateway comes back by its EK and AK,
// with nobody's help, and what it had to say arrives.
func TestAMonthOffLineStrandsNobodyWhateverTheClockSays(t *testing.T) {
	inFull(t)
	w := newWorld(t, setup{})
	w.enrol()
	w.seal()
	people := w.decisions()
	const said = "the pump stood still while nobody listened"
	w.stopped()
	w.vm.Run("mkdir -p /run/gatewarden/health; echo 'critical " + said + "' >/run/gatewarden/health/pump")
	w.until("what cannot be said now is kept", verdictLimit, func(s local.Status) bool {
		return !s.Link.Connected && s.Outbox.Pending > 0 && s.Health.Grade == "critical"
	})
	for _, c := range clocks() {
		w.comesBack(c)
	}
	if n := w.decisions(); n != people {
		t.Errorf("people decided %d times meanwhile", n-people)
	}
	messages, err := w.server.Store().Messages(w.Context(), w.id, string(wire.KindHealth), 1000)
	w.check(err)
	if !slices.ContainsFunc(messages, func(m registry.Message) bool { return strings.Contains(string(m.Body), said) }) {
		t.Errorf("none of %d health reports says that %s", len(messages), said)
	}
}

// comesBack has a gateway that has no fleet sleep for a month and wake with a clock,
// and the fleet come back then.
func (w *world) comesBack(c wrong) {
	w.Helper()
	before := w.certificate()
	w.vm.PowerOff()
	w.pass(month)
	began := w.now()
	if c.shows.IsZero() {
		c.shows = began
	}
	w.vm.SetClock(c.shows)
	w.vm.PowerOn()
	s := w.until("the gateway is alone and says so", agentLimit, func(s local.Status) bool { return !s.Link.Connected && s.Link.LastError != "" })
	w.Logf("with its clock %s the gateway believes that it is %s (trusted: %t) and says: %s; %s; %s", c.name, s.Now, s.TimeTrusted, s.Phase, s.Problem, s.Link.LastError)
	if right := s.Now.Sub(began).Abs() < aDay; right != (c.name == "right") {
		w.Errorf("with its clock %s the gateway says it is %s; it is %s", c.name, s.Now, began)
	}
	began = w.now()
	w.serve()
	w.judged(trusted, began)
	w.Logf("with its clock %s it is trusted %.0f s after the fleet was back", c.name, w.now().Sub(began).Seconds())
	w.lives(w.certificate(), w.id, "lab devices", wire.GateFull, time.Duration(w.settings.Certificates.Full))
	// The broker's refusal of the old certificate may still ask for one more.
	got := w.since(before.Serial)
	if len(got) > 2 || !slices.ContainsFunc(got, func(r identity.Record) bool {
		return strings.Contains(r.Why, c.asks) && strings.HasSuffix(r.Why, "recovered by EK and AK")
	}) {
		w.Errorf("with its clock %s it got %d certificates: %+v", c.name, len(got), got)
	}
	w.until("nothing is left behind", verdictLimit, func(s local.Status) bool { return s.Outbox.Pending == 0 && s.Outbox.Dropped == 0 })
	w.opens()
}

// since are the certificates that `gatewarden cert history` has from after serial.
func (w *world) since(serial string) []identity.Record {
	w.Helper()
	var list []identity.Record
	w.check(json.Unmarshal([]byte(w.vm.Run("gatewarden cert history --json")), &list))
	at := slices.IndexFunc(list, func(r identity.Record) bool { return r.Serial == serial })
	if at < 0 {
		w.Fatalf("the history lacks %s:\n%s", serial, w.vm.Run("gatewarden cert history"))
	}
	return list[:at]
}

// decisions is how often people decided something in the fleet.
func (w *world) decisions() int {
	w.Helper()
	entries, err := w.server.Store().Audit(w.Context(), 0, 1000)
	w.check(err)
	n := 0
	for _, e := range entries {
		if e.By == person {
			n++
		}
	}
	return n
}
