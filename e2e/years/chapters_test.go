package years

import (
	"path/filepath"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/fleet/ca"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/wire"
)

func enrolment(g *gateway) {
	g.boot(false)
	g.pass(10 * time.Minute)
	if _, ok := g.identity.Current(); ok || len(g.journal(g.identity.Device())) > 0 {
		g.Fatal("there is a certificate before anybody approved")
	}
	g.must(g.operators.Approve(g.Context(), g.identity.Device(), by("new")))
	g.pass(10 * time.Minute)
	g.well()
	if grade := g.talk(); grade != "trusted" {
		g.Errorf("after its enrolment it is %s", grade)
	}
}

func halfYear(g *gateway) {
	first := len(g.certificates())
	for range 7 {
		before := g.newest()
		g.pass(4 * week)
		g.well()
		g.refused(before.Credential, "expired")
	}
	g.inTime(first)
	if n := len(g.certificates()) - first; n < 41 || n > 46 {
		g.Errorf("%d renewals in half a year", n)
	}
}

// The server issues from the new intermediate. A certificate of the old one is good
// until it ends, and moves with the next renewal.
func rollover(g *gateway) {
	first, before := len(g.certificates()), g.newest()
	vault, err := g.settings.Vault()
	g.must(err)
	made, err := vault.Rollover(filepath.Join(vault.Dir, "root.key"), false, g.Now())
	g.must(err)
	g.stop()
	g.serve()
	g.welcome(before.Credential)
	if grade := g.talk(); grade != "trusted" {
		g.Errorf("by the certificate of the old intermediate it is %s", grade)
	}
	g.pass(before.Leaf().NotAfter.Sub(g.Now()) - time.Hour)
	g.welcome(before.Credential)
	now := g.well()
	g.pass(2 * time.Hour)
	g.refused(before.Credential, "expired")
	g.inTime(first)
	authority, err := ca.Open(vault.Dir)
	g.must(err)
	if len(made) != 3 || !now.Chain[1].Equal(authority.Chain(ca.Full)[0]) || now.Chain[1].Equal(before.Chain[1]) {
		g.Errorf("after the rollover to %v the certificate is by %s", made, now.Leaf().Issuer)
	}
}

// The cable is pulled; the machine runs on.
func offline(g *gateway) {
	first, before := len(g.certificates()), g.newest()
	g.api.pull()
	g.mqtt.pull()
	g.pass(30 * day)
	if len(g.certificates()) != first {
		g.Fatal("there is a certificate that nobody could issue")
	}
	g.api.plug(g.T)
	g.mqtt.plug(g.T)
	g.refused(before.Credential, "expired")
	g.pass(15 * time.Minute)
	g.back(first)
	g.refused(before.Credential, "expired")
}

// The machine is off.
func drawer(g *gateway) {
	first, before := len(g.certificates()), g.newest()
	g.off()
	g.pass(30 * day)
	g.boot(false)
	g.refused(before.Credential, "expired")
	g.pass(time.Minute)
	g.back(first)
	if grade := g.talk(); grade != "trusted" {
		g.Errorf("after a month it is %s", grade)
	}
}

func caDown(g *gateway) {
	first, before := len(g.certificates()), g.newest()
	g.stop()
	g.api.pull() // as nobody listens
	g.pass(10 * day)
	g.serve()
	g.api.plug(g.T)
	g.refused(before.Credential, "expired")
	g.pass(15 * time.Minute)
	g.back(first)
}

// The machine begins at 1970 each time it is switched on, and nobody sets its clock:
// first the agent's countdown says when to renew, then, with a restart a day, the
// TPM's clock alone, as often as the agent attests here. Then the battery is replaced while the machine runs.
func deadClock(g *gateway) {
	floor := g.clock.Floor()
	g.rtcDead = true
	g.reboot(false)
	first := len(g.certificates())
	g.pass(3 * week)
	g.well()
	g.inTime(first)
	first = len(g.certificates())
	for range 21 {
		g.pass(day)
		g.restart()
		if grade := g.talk(); grade != "trusted" {
			g.Errorf("with a dead clock it is %s", grade)
		}
		g.pass(2 * time.Hour)
		g.well()
	}
	g.inTimeBut(26*time.Hour, first)
	if n := len(g.certificates()) - first; n < 3 || n > 5 {
		g.Errorf("%d renewals in 22 days", n)
	}
	g.expiredUnseen()
	if now, believed := g.clock.Now(); believed || !g.clock.Floor().Equal(floor) || !now.Equal(floor) {
		g.Errorf("the clock says %s (believed: %v), its floor is %s, it was %s", now, believed, g.clock.Floor(), floor)
	}
	g.rtcDead = false
	first = len(g.certificates())
	g.pass(2 * week)
	g.well()
	g.inTime(first)
}

// A month without power, and none of the three clocks knows of it: the machine's says
// 1970, the TPM's stood still, the agent's begins. It is told at the broker's door.
func (g *gateway) expiredUnseen() {
	g.Helper()
	first, before := len(g.certificates()), g.newest()
	g.off()
	g.pass(30 * day)
	g.boot(false)
	g.pass(2 * time.Hour)
	if len(g.certificates()) != first {
		g.Error("it renewed by itself: this proves little")
	}
	g.refused(before.Credential, "expired")
	if grade := g.talk(); grade != "refused" {
		g.Errorf("with an expired certificate it is %s", grade)
	}
	g.back(first)
}

// Firmware that nobody approved: certificates live for a day. As soon as the old one
// is back, so is the full life.
func degraded(g *gateway) {
	g.reboot(true)
	if grade := g.talk(); grade != "degraded" {
		g.Errorf("with strange firmware it is %s", grade)
	}
	g.pass(week)
	first := len(g.certificates())
	before := g.newest()
	g.pass(3 * day)
	for _, c := range g.certificates()[first:] {
		if life := c.Leaf().NotAfter.Sub(c.at); life > 25*time.Hour || c.Identity != g.identity.Device() {
			g.Errorf("%s: a certificate for %s lives for %s", c.at, c.Identity, life)
		}
	}
	g.inTime(first)
	if n := len(g.certificates()) - first; n < 3 || n > 6 {
		g.Errorf("%d renewals in three days", n)
	}
	g.refused(before.Credential, "expired")
	g.welcome(g.newest().Credential)
	g.reboot(false)
	if grade := g.talk(); grade != "trusted" {
		g.Errorf("with its firmware of before it is %s", grade)
	}
	g.well()
}

// Something runs that no log explains. The full certificate ends with the verdict.
func quarantined(g *gateway) {
	device, before := g.identity.Device(), g.newest()
	g.must(g.power.Extend(g.Context(), 4, [32]byte{1}))
	if grade := g.talk(); grade == "trusted" {
		g.Fatal("an altered boot is trusted")
	}
	g.refused(before.Credential, "revoked by the fall")
	first := len(g.certificates()) - 1
	g.pass(3 * day)
	for _, c := range g.certificates()[first:] {
		if life := c.Leaf().NotAfter.Sub(c.at); life > 25*time.Hour || c.Identity != wire.QuarantineID(device) {
			g.Errorf("%s: a certificate for %s lives for %s", c.at, c.Identity, life)
		}
	}
	last := g.newest()
	g.welcome(last.Credential)
	g.refused(before.Credential, "revoked by the fall")
	if grade := g.talk(); grade != "untrusted" {
		g.Errorf("in quarantine it is %s", grade)
	}
	g.reboot(false)
	if grade := g.talk(); grade != "trusted" {
		g.Errorf("after a good boot it is %s", grade)
	}
	g.well()
	g.refused(last.Credential, "of a quarantine that is over")
	g.refused(before.Credential, "revoked by the fall")
}

// Taken out of service it gets nothing; transferred it waits for a person again.
func takenOut(g *gateway) {
	ctx, id := g.Context(), g.identity.Device()
	first, before := len(g.journal(id)), g.newest()
	out := func(what string) {
		g.Helper()
		g.refused(before.Credential, what)
		if n := len(g.journal(id)) - first; n != 0 {
			g.Fatalf("%d certificates were issued while it was %s", n, what)
		}
	}
	g.must(g.operators.Decommission(ctx, id, by("sold")))
	out("decommissioned")
	if grade := g.talk(); grade != "refused" {
		g.Errorf("taken out it is %s", grade)
	}
	g.pass(day)
	out("decommissioned")
	g.told("decommissioned")
	g.must(g.operators.Transfer(ctx, id, by("bought")))
	g.pass(2 * time.Hour)
	out("waiting for approval")
	d, err := g.operators.Device(ctx, id)
	g.must(err)
	if phase, _ := g.identity.Status(); d.State != registry.Pending || !strings.Contains(phase, "approve") {
		g.Errorf("after its transfer it is %s, and says it is %s", d.State, phase)
	}
	g.must(g.operators.Approve(ctx, id, by("ours")))
	g.pass(15 * time.Minute)
	g.well()
	g.refused(before.Credential, "of a holder before")
}

// The wrong one was revoked, at night. One command brings it back, and nobody has to
// go there; what was revoked stays so.
func mistaken(g *gateway) {
	ctx, id := g.Context(), g.identity.Device()
	first, issued, before := len(g.certificates()), len(g.journal(id)), g.newest()
	g.must(g.operators.Revoke(ctx, id, by("stolen")))
	g.refused(before.Credential, "revoked")
	if grade := g.talk(); grade != "refused" {
		g.Errorf("revoked it is %s", grade)
	}
	g.pass(day)
	g.refused(before.Credential, "revoked")
	g.told("was revoked")
	if g.operators.Approve(ctx, id, by("please")) == nil || len(g.journal(id)) != issued {
		g.Fatal("a revoked gateway is approved by the way, or was issued a certificate")
	}
	word := by("it was the one beside it")
	word.AcceptRevoked = true
	g.must(g.operators.Approve(ctx, id, word))
	g.refused(before.Credential, "revoked")
	g.pass(25 * time.Minute)
	g.back(first)
	g.refused(before.Credential, "revoked")
	if grade := g.talk(); grade != "trusted" {
		g.Errorf("back it is %s", grade)
	}
}

// Half a year more; then it is stolen, and what it keeps is worth nothing for ever.
func end(g *gateway) {
	halfYear(g)
	ctx, id, last := g.Context(), g.identity.Device(), g.newest()
	issued := len(g.journal(id))
	g.must(g.operators.Revoke(ctx, id, by("stolen")))
	g.refused(last.Credential, "revoked")
	g.pass(day)
	g.refused(last.Credential, "revoked")
	if g.operators.Approve(ctx, id, by("please")) == nil || g.operators.Transfer(ctx, id, by("please")) == nil {
		g.Error("a revoked gateway can be brought back")
	}
	g.restart()
	g.pass(day)
	if n := len(g.journal(id)) - issued; n != 0 {
		g.Errorf("%d certificates were issued to a revoked gateway", n)
	}
}
