package verifier_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/fleet/verifier"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// siblings are n gateways in service of the model of the court's.
func (c *court) siblings(n int) []string {
	c.Helper()
	var ids []string
	for i := range n {
		id := fmt.Sprintf("gw-%016d", i)
		_, _, err := c.store.Enroll(c.Context(), registry.Device{ID: id, Model: "lab-box", EKName: []byte(id), AKPublic: []byte("ak"), Created: c.now()})
		c.must(err)
		c.must(c.store.SetState(c.Context(), id, registry.Active, "olga", "test", c.now()))
		ids = append(ids, id)
	}
	return ids
}

func (c *court) fall(ids ...string) {
	c.Helper()
	for _, id := range ids {
		c.must(c.store.AddVerdict(c.Context(), registry.Verdict{Device: id, At: c.now(), Grade: "untrusted", Gate: string(wire.GateQuarantine)}))
	}
}

// TestManyFallsOfAModelStopTheGateForAnHour: a bad policy must not put a whole fleet
// into quarantine before somebody has looked.
func TestManyFallsOfAModelStopTheGateForAnHour(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	c.verifier.Brake = 25
	full := c.certify(deviceID)
	ids := c.siblings(10) // twelve with the court's two
	c.judge(full)
	c.reboot(goodLine + " init=/bin/sh")
	c.fall(ids[:3]...)
	v := c.judge(full)
	if v.Grade != "untrusted" || v.Gate != wire.GateShort || v.Renew || c.device().State != registry.Active || len(c.fell) > 0 {
		t.Fatalf("a third of the model fell: %+v, state %s, fell %v", v, c.device().State, c.fell)
	}
	if want := "noted: 4 of 12 gateways of the model lab-box fell within an hour"; !strings.HasPrefix(v.Explanation[1], want) {
		t.Errorf("explanation %q, want %q", v.Explanation, want)
	}
	last, err := c.store.LastVerdict(t.Context(), deviceID)
	c.must(err)
	if g := verifier.GateNow(last, registry.Active); g != wire.GateShort {
		t.Errorf("at a renewal the gate is %s", g)
	}
	for state, want := range map[string]wire.Gate{registry.Revoked: wire.GateRevoked, registry.Quarantined: wire.GateQuarantine} {
		if g := verifier.GateNow(last, state); g != want {
			t.Errorf("%s: the gate is %s", state, g)
		}
	}
	c.judge(full)
	events, err := c.store.Events(t.Context(), "", 0, 100)
	c.must(err)
	alarms := 0
	for _, e := range events {
		if e.Kind == "gate.brake" && e.Severity == registry.Alarm && e.Device == "" {
			alarms++
		}
	}
	if alarms != 1 {
		t.Errorf("%d alarms", alarms)
	}
	c.ahead.Store(int64(59 * time.Minute)) // the certificate lasts an hour
	c.fall(ids[3])                         // four within an hour, still
	if v := c.judge(full); v.Gate != wire.GateShort {
		t.Errorf("within the hour: %+v", v)
	}
}

func TestFewFallsOrAnHourOfQuietQuarantineAsEver(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(c *court, ids []string){
		"three of twelve":          func(c *court, ids []string) { c.fall(ids[:2]...) },
		"four of twelve, long ago": func(c *court, ids []string) { c.fall(ids[:4]...); c.ahead.Add(int64(time.Hour)) },
		"four, without a brake":    func(c *court, ids []string) { c.verifier.Brake = 0; c.fall(ids[:4]...) },
		"four of another model": func(c *court, ids []string) {
			for i := range 4 {
				id := fmt.Sprintf("gw-rail%012d", i)
				_, _, err := c.store.Enroll(c.Context(), registry.Device{ID: id, Model: "rail", EKName: []byte(id), Created: c.now()})
				c.must(err)
				c.fall(id)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCourt(t)
			c.verifier.Brake = 25
			ids := c.siblings(10)
			run(c, ids)
			c.reboot(goodLine + " init=/bin/sh")
			if v := c.judge(c.certify(deviceID)); v.Gate != wire.GateQuarantine || c.device().State != registry.Quarantined {
				t.Errorf("%+v", v)
			}
		})
	}
}
