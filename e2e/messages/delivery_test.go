package messages

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent/link"
	"github.com/gatewarden/gatewarden/internal/mqttconn/mqtttest"
	"github.com/gatewarden/gatewarden/internal/wire"
)

func TestBrokerDyingAtRandomMomentsLosesAndDoublesNothing(t *testing.T) {
	eachBroker(t, func(t *testing.T, ca *mqtttest.CA, p peer) {
		t.Parallel()
		w := newWorld(t, ca, p)
		o := w.outbox(link.DefaultLimits())
		w.link(o)
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		r := rand.New(rand.NewPCG(seed, 0))
		next := r.IntN(40)
		w.feed(o, 0, 120, 100, func(i int) {
			if i == next {
				p.Kill(t)
				p.Start(t)
				next = i + 15 + r.IntN(30)
			}
		})
		w.drained(o)
		w.exactly(120)
	})
}

func TestRotationUnderLoadLosesAndDoublesNothing(t *testing.T) {
	eachBroker(t, func(t *testing.T, ca *mqtttest.CA, p peer) {
		t.Parallel()
		w := newWorld(t, ca, p)
		o := w.outbox(link.DefaultLimits())
		l := w.link(o)
		until(t, "the device is connected", func() bool { return l.Status().Connected })
		w.feed(o, 0, 100, 100, func(i int) {
			if i%20 == 10 {
				w.become(device)
				l.Reconnect()
			}
		})
		w.drained(o)
		w.exactly(100)
		if w.hellos < 5 {
			t.Errorf("%d connections were seen: nothing was rotated", w.hellos)
		}
	})
}

func TestQuarantineAndBackUnderLoadLosesAndDoublesNothing(t *testing.T) {
	eachBroker(t, func(t *testing.T, ca *mqtttest.CA, p peer) {
		t.Parallel()
		w := newWorld(t, ca, p)
		o := w.outbox(link.DefaultLimits())
		l := w.link(o)
		w.feed(o, 0, 100, 100, func(i int) {
			switch i {
			case 30:
				w.become(wire.QuarantineID(device))
				l.Reconnect()
			case 70:
				w.become(device)
				l.Reconnect()
			}
		})
		w.drained(o)
		w.exactly(100)
	})
}

func TestFullOutboxDropsOldTelemetryKeepsSecurityAndSaysSo(t *testing.T) {
	eachBroker(t, func(t *testing.T, ca *mqtttest.CA, p peer) {
		t.Parallel()
		w := newWorld(t, ca, p)
		o := w.outbox(link.Limits{Bytes: 1 << 20, Count: 50})
		for i := range 10 {
			if err := o.Put(wire.KindEvent, time.Now(), wire.Event{Version: 1, Name: "test.seen", Text: "seen", Index: uint64(i)}); err != nil {
				t.Fatal(err)
			}
		}
		w.feed(o, 0, 100, 1000, nil)
		if o.Dropped() != 60 || o.Pending() != 50 {
			t.Fatalf("dropped %d, pending %d; want 60 and 50", o.Dropped(), o.Pending())
		}
		w.link(o)
		w.drained(o)
		indices := w.indices()
		if len(indices) != 40 || indices[0] != 60 || indices[39] != 99 {
			t.Fatalf("arrived: %v, want 60 to 99", indices)
		}
		if seen := w.events("test.seen"); len(seen) != 10 {
			t.Errorf("%d of 10 security events arrived", len(seen))
		}
		if lost := w.events("outbox.dropped"); len(lost) != 1 || lost[0].Text != "60 messages were lost: the device's outbox was full." {
			t.Errorf("timeline says %v about the loss", lost)
		}
	})
}

func TestWrongClocksDelayNothing(t *testing.T) {
	eachBroker(t, func(t *testing.T, ca *mqtttest.CA, p peer) {
		t.Parallel()
		w := newWorld(t, ca, p)
		o := w.outbox(link.DefaultLimits())
		w.link(o)
		for i, at := range []time.Time{{}, time.Unix(0, 0), time.Now().AddDate(10, 0, 0), time.Now().AddDate(-1, 0, 0)} {
			if err := o.Put(wire.KindLinkTest, at, wire.LinkTest{Run: "run", Index: i, Of: 4}); err != nil {
				t.Fatal(err)
			}
		}
		w.drained(o)
		w.exactly(4)
	})
}
