package years

import (
	"context"
	"crypto/sha256"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/gatewarden/gatewarden/agent/clock"
	"github.com/gatewarden/gatewarden/agent/evidence"
	"github.com/gatewarden/gatewarden/agent/identity"
	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/bench/rig"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/testdata/boot"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// chipStep is how far the TPM's clock may lag behind the calendar.
const chipStep = day

// gateway is one machine with a TPM of its own, and its agent.
type gateway struct {
	*world
	machine *tpmtest.Machine
	dir     string
	trusted *policy.Fleet
	built   time.Time // of the agent
	rtcDead bool      // the machine's clock begins at 1970 and nobody sets it

	power   *tpmtest.Power
	booted  time.Time
	powered time.Duration // of the chip, until chipAt
	chipAt  time.Time

	chip      *tpm.TPM
	clock     *clock.Clock
	identity  *identity.Identity
	collector *evidence.Collector
	halt      func()

	mu     sync.Mutex
	issued []issued
}

// issued is a certificate that the gateway took into use.
type issued struct {
	identity.Credential
	at  time.Time // by the calendar
	why string
}

func newGateway(w *world) *gateway {
	w.Helper()
	machine, power := tpmtest.Start(w.T)
	w.must(power.Off())
	g := &gateway{world: w, machine: machine, dir: filepath.Join(w.dir, "gateway"), trusted: w.trust(), built: w.Now()}
	w.must(os.MkdirAll(g.dir, 0o700))
	return g
}

// boot switches the machine on and measures a boot; with strange firmware if asked.
func (g *gateway) boot(strange bool) {
	g.Helper()
	g.power = tpmtest.PowerOn(g.T, g.machine)
	g.booted, g.chipAt = g.Now(), g.Now()
	raw, err := attest.CutAtFirstBootApplication(boot.EventLog)
	g.must(err)
	for _, event := range attest.BootEvents(rig.BootSoftware()) {
		raw = attest.AppendEvent(raw, event)
	}
	log, err := attest.ParseEventLog(raw)
	g.must(err)
	raw = attest.NewEventLog()
	for n, event := range log.Events[1:] {
		if n == 2 && strange { // the firmware's own code, PCR 0
			event.Digest[0] ^= 1
		}
		raw = attest.AppendEvent(raw, event)
		if event.Extends() {
			g.must(g.power.Extend(g.Context(), event.PCR, event.Digest))
		}
	}
	for _, phase := range []string{"sysinit", "ready"} {
		g.must(g.power.Extend(g.Context(), 11, sha256.Sum256([]byte(phase))))
	}
	g.must(os.WriteFile(filepath.Join(g.dir, "eventlog"), raw, 0o600))
	g.start()
}

// off ends the agent and switches the machine off.
func (g *gateway) off() {
	g.Helper()
	g.halt()
	g.must(g.power.Off())
	g.power = nil
}

func (g *gateway) reboot(strange bool) {
	g.Helper()
	g.off()
	g.boot(strange)
}

// restart is one of the agent: what was in memory is gone.
func (g *gateway) restart() {
	g.Helper()
	g.halt()
	g.start()
}

func (g *gateway) start() {
	g.Helper()
	g.tick()
	files := &fsx.FS{}
	var err error
	g.chip, err = tpm.Open(g.Context(), "unix:"+g.power.Socket)
	g.must(err)
	g.clock, err = clock.New(clock.Config{FS: files, Dir: g.dir, Build: g.built, Now: g.machinesClock, Synced: func() bool { return !g.rtcDead }})
	g.must(err)
	began := g.Now().Add(-time.Hour)
	g.identity, err = identity.New(g.Context(), identity.Config{
		Dir: filepath.Join(g.dir, "identity"), FS: files, TPM: g.chip, Fleet: func() *policy.Fleet { return g.trusted }, Clock: g.clock,
		Model: "box", Hostname: "box", Software: "1",
		Collect: func(ctx context.Context, c wire.Challenge, keys ...string) (attest.Evidence, error) {
			g.tick()
			return g.collector.Collect(ctx, c, keys...)
		},
		Verdict: func(wire.Verdict) {}, Changed: g.changed, Event: func(string, string) {}, Log: quiet(g.T),
		Counted: func() time.Duration { return g.Now().Sub(began) }, After: g.after,
	})
	g.must(err)
	g.collector, err = evidence.New(evidence.Config{
		TPM: g.chip, AK: g.identity.AK(), Fleet: fleetID, Device: g.identity.Device(),
		Claims: func() attest.Claims { return attest.Claims{Version: 1, Software: "1"} },
		Logs: func(context.Context) (*os.File, *os.File, error) {
			f, err := os.Open(filepath.Join(g.dir, "eventlog"))
			return f, nil, err
		},
	})
	g.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	run := g.identity.Run
	go func() { defer close(ended); _ = run(ctx) }() // its error is that of ctx
	g.halt = sync.OnceFunc(func() { cancel(); <-ended; g.forget(); g.chip.Close() })
	g.Cleanup(g.halt)
	g.settle(g.T)
}

// machinesClock is what the machine believes.
func (g *gateway) machinesClock() time.Time {
	if g.rtcDead {
		return time.Unix(0, 0).Add(g.Now().Sub(g.booted))
	}
	return g.Now()
}

func (g *gateway) changed(c identity.Credential) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.issued = append(g.issued, issued{Credential: c, at: g.Now(), why: g.identity.Record().Why})
}

// certificates lists what was taken into use so far.
func (g *gateway) certificates() []issued {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]issued(nil), g.issued...)
}

// tick brings the TPM's clock up to the calendar. In between it goes on by itself.
func (g *gateway) tick() {
	g.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	since := g.Now().Sub(g.chipAt)
	if since <= time.Hour {
		return
	}
	g.powered, g.chipAt = g.powered+since, g.Now()
	if err := g.power.SetClock(uint64(g.powered.Milliseconds())); err != nil {
		g.Error(err)
	}
}

// pass lets time pass; the agent does what it wakes for.
func (g *gateway) pass(d time.Duration) {
	g.Helper()
	for end := g.Now().Add(d); ; {
		before := g.Now()
		woken := g.turn(end)
		if now := g.Now(); now.Sub(before) > 15*time.Minute {
			g.api.cut()
			g.mqtt.cut()
		}
		if g.power != nil && g.Now().Sub(g.chipAt) > chipStep {
			g.tick()
		}
		if !woken {
			return
		}
		g.settle(g.T)
	}
}
