package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const (
	lifeOfCA = 5 * 365 * aDay // of an intermediate
	leftOfCA = 8 * aDay       // before it ends
)

// Story 7: the intermediates roll over under two gateways. One is on line all the
// time, one was off; both are let in with what they have, and move when they renew.
// Then the old generation ends, and is gone.
func TestTwoGatewaysMoveToTheNextIntermediateAndNobodyIsCutOff(t *testing.T) {
	inFull(t)
	w := newWorld(t, setup{aged: lifeOfCA - leftOfCA})
	w.enrol()
	stays := w.gateway
	leaves := w.another()
	people := w.decisions()
	w.lives(w.certificate(), leaves.id, "lab devices", wire.GateFull, 7*aDay)
	w.vm.PowerOff()

	w.stopped()
	w.rollOver()
	w.generations("devices", "devices-2", "quarantine", "quarantine-2", "services", "services-2")
	began := w.now()
	w.serve()
	w.gateway = stays
	w.judged(trusted, began)
	w.lives(w.certificate(), stays.id, "lab devices", wire.GateFull, 7*aDay)
	w.reaches(stays.id)
	w.vm.Run("gatewarden cert renew")
	w.moved("a person or a command asked for it")

	// Five days on, two thirds of a certificate's life are over.
	w.pass(5 * aDay)
	began = w.now()
	w.serve()
	w.vm.Run(fmt.Sprintf("date -s @%d && systemctl restart gatewarden", began.Unix()))
	w.judged(trusted, began)
	w.moved("two thirds of the certificate's life are over")
	w.gateway = leaves
	w.vm.SetClock(w.now())
	w.vm.PowerOn()
	w.judged(trusted, began)
	w.moved("two thirds of the certificate's life are over")

	// The old generation has ended, and the next rollover leaves it out.
	w.pass(leftOfCA - 4*aDay)
	w.rollOver("services")
	w.generations("devices-2", "quarantine-2", "services-2", "services-3")
	began = w.now()
	w.serve()
	for _, g := range []gateway{leaves, stays} {
		w.gateway = g
		w.judged(trusted, began)
		w.moved("")
		if out := w.vm.Run("gatewarden cert history"); strings.Contains(out, "recovered") {
			t.Errorf("%s was cut off:\n%s", g.id, out)
		}
	}
	if n := w.decisions(); n != people {
		t.Errorf("people decided %d times meanwhile", n-people)
	}
}

// another makes a second gateway, with a TPM of its own, and enrols it.
func (w *world) another() gateway {
	w.Helper()
	first := w.id
	w.vm = w.Boot(w.machine)
	w.stopped() // it reads who makes TPMs when it starts
	w.check(os.WriteFile(filepath.Join(w.settings.EKRoots, "second.pem"), w.vm.TPMMaker(), 0o600))
	w.serve()
	w.configure("")
	w.enrol()
	if w.id == first {
		w.Fatalf("both gateways are %s", first)
	}
	return w.gateway
}

// rollOver makes new intermediates, as `gatewarden-fleet ca rollover` does, while the
// fleet server is not there.
func (w *world) rollOver(which ...string) {
	w.Helper()
	vault, err := w.settings.Vault()
	w.check(err)
	_, err = vault.Rollover(filepath.Join(vault.Dir, "root.key"), false, w.now(), which...)
	w.check(err)
}

// generations fails unless these are the fleet's intermediates.
func (w *world) generations(want ...string) {
	w.Helper()
	vault, err := w.settings.Vault()
	w.check(err)
	authority, err := vault.Open()
	w.check(err)
	var got []string
	for _, i := range authority.Intermediates() {
		got = append(got, i.Name)
	}
	if !slices.Equal(got, want) {
		w.Errorf("the fleet's intermediates are %v, not %v", got, want)
	}
}

// moved waits until the gateway has a certificate of the second generation that was
// asked for because of why, and is heard with it.
func (w *world) moved(why string) {
	w.Helper()
	var c local.Certificate
	w.Until("the certificate is of the next generation", verdictLimit, func() error {
		s, err := w.status()
		if err != nil {
			return err
		}
		if c = *s.Certificate; c.Issuer != "lab devices-2" || !strings.Contains(c.Why, why) || s.Link.Identity != c.Identity {
			return fmt.Errorf("it is of %s, asked for: %s", c.Issuer, c.Why)
		}
		return nil
	})
	w.Logf("%s moved to %s: %s", w.id, c.Issuer, c.Why)
	w.reaches(w.id)
}
