package years

import (
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent/identity"
)

// A gateway lives for two years. It is never stranded: whatever happens, it comes
// back to a certificate of full life without a person, but where the design asks for
// one. And it is never trusted wrongly: what ended is refused at every door from
// that moment on.
func TestTwoYears(t *testing.T) {
	w := newWorld(t)
	g := newGateway(w)
	began := w.Now()
	for _, chapter := range []struct {
		name string
		tell func(*gateway)
	}{
		{"enrolment waits for an operator", enrolment},
		{"half a year with nobody watching", halfYear},
		{"rollover of the CA with overlap", rollover},
		{"a month off line", offline},
		{"half a year more", halfYear},
		{"a month in a drawer", drawer},
		{"the CA is down for longer than a certificate lives", caDown},
		{"a dead clock", deadClock},
		{"other firmware degrades, and heals", degraded},
		{"an altered boot is quarantined, and heals", quarantined},
		{"taken out, and let in again by an operator", takenOut},
		{"revoked by mistake, and approved again", mistaken},
		{"half a year, and it is revoked and stays so", end},
	} {
		before := time.Now()
		chapter.tell(g)
		if t.Failed() {
			t.FailNow()
		}
		t.Logf("day %3.0f: %s (%s)", w.Now().Sub(began).Hours()/24, chapter.name, time.Since(before).Round(time.Millisecond))
	}
	if lived := w.Now().Sub(began); lived < 2*365*day {
		t.Errorf("it lived for %s only", lived)
	}
	t.Logf("%d certificates", len(g.certificates()))
}

// well fails unless the gateway holds a certificate of full life that is good.
func (g *gateway) well() identity.Credential {
	g.Helper()
	c, ok := g.identity.Current()
	if !ok {
		phase, last := g.identity.Status()
		g.Fatalf("%s: the gateway has no certificate; it is %s; %v", g.Now(), phase, last)
	}
	if life := c.Leaf().NotAfter.Sub(c.Leaf().NotBefore); c.Identity != g.identity.Device() || life < week || g.Now().After(c.Leaf().NotAfter) {
		phase, last := g.identity.Status()
		g.Fatalf("%s: the certificate for %s lives for %s until %s; the gateway is %s; %v", g.Now(), c.Identity, life, c.Leaf().NotAfter, phase, last)
	}
	g.welcome(c)
	return c
}

// inTime fails unless each certificate since the first n was renewed at two thirds
// of its life, with a new key, and none by a recovery.
func (g *gateway) inTime(n int) {
	g.Helper()
	g.inTimeBut(time.Hour, n)
}

// inTimeBut is inTime where a renewal may come so much later.
func (g *gateway) inTimeBut(late time.Duration, n int) {
	g.Helper()
	all := g.certificates()
	for ; n < len(all); n++ {
		before, now := all[n-1], all[n]
		life := before.Leaf().NotAfter.Sub(before.Leaf().NotBefore)
		share := float64(now.at.Sub(before.Leaf().NotBefore)) / float64(life)
		if share < 2.0/3-0.05 || share > 2.0/3+float64(late)/float64(life) || strings.Contains(now.why, "recovered") || now.SPKI() == before.SPKI() {
			g.Errorf("%s: renewed after %.3f of its life, because %s", now.at, share, now.why)
		}
	}
}

// told fails unless the gateway says in its status what the fleet told it. A server
// that refuses a certificate hangs up; of one attempt in many its word is not read.
func (g *gateway) told(word string) {
	g.Helper()
	for range 10 {
		if _, last := g.identity.Status(); last != nil && strings.Contains(last.Error(), word) {
			return
		}
		g.pass(20 * time.Minute)
	}
	_, last := g.identity.Status()
	g.Errorf("the gateway says of it: %v", last)
}

// newest is the certificate that was taken into use last.
func (g *gateway) newest() issued {
	g.Helper()
	all := g.certificates()
	return all[len(all)-1]
}

// back fails unless the gateway has recovered by EK and AK since the first n
// certificates, and is well.
func (g *gateway) back(n int) {
	g.Helper()
	g.well()
	if all := g.certificates(); len(all) != n+1 || !strings.Contains(all[n].why, "recovered by EK and AK") {
		g.Errorf("%s: %d certificates of %d are new, the last because %q", g.Now(), len(all)-n, len(all), g.newest().why)
	}
}
