package identity

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent/evidence"
	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet"
	"github.com/gatewarden/gatewarden/fleet/operator"
	"github.com/gatewarden/gatewarden/internal/conf"
	"github.com/gatewarden/gatewarden/internal/freeport"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/testdata/boot"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

const fleetID = "lab"

// world is a real fleet server in this process.
type world struct {
	*testing.T
	dir      string
	settings fleet.Settings
	server   *fleet.Server
	api      *operator.Client
	stop     func()
	ahead    atomic.Int64 // of the true time are server and gateways, after pass
}

func newWorld(t *testing.T, change func(*fleet.Settings)) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ports := freePorts(t, 3)
	s := fleet.DefaultSettings()
	s.Fleet, s.State, s.Policy = fleetID, filepath.Join(dir, "fleet"), filepath.Join(dir, "policy.json")
	s.Listen = fleet.Listen{API: ports[0], MQTT: ports[1], Dashboard: ports[2], Operator: filepath.Join(dir, "o")}
	s.Public = fleet.Public{API: []string{"https://" + ports[0]}, MQTT: []string{"mqtts://" + ports[1]}}
	s.Enroll.Retry = conf.Duration(50 * time.Millisecond)
	if change != nil {
		change(&s)
	}
	w := &world{T: t, dir: dir, settings: s, api: operator.NewClient(s.Listen.Operator)}
	w.must(fleet.Init(s, time.Now()))
	w.must(os.WriteFile(s.Policy, w.json(attest.Policy{
		Version: 1, Issued: time.Now().UTC(), Fleet: fleetID, Releases: []attest.Release{measured().Release("lab", "1")},
		Rules: map[string]attest.Severity{"software-keys": attest.Degrade},
	}), 0o600))
	w.serve()
	return w
}

// serve runs the server until the test ends or stop is called.
func (w *world) serve() {
	w.Helper()
	var err error
	w.server, err = fleet.NewByClock(w.settings, "test", w.now, quiet(w.T))
	w.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	server := w.server
	go func() { done <- server.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.Errorf("the fleet server ended: %v", err)
		}
	})
	w.Cleanup(w.stop)
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }

// pass lets time pass until then, for the fleet and for g.
func (g *gateway) pass(then time.Time) {
	ahead := time.Until(then)
	g.ahead.Store(int64(ahead))
	g.clock.set(ahead, true)
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) json(v any) []byte {
	w.Helper()
	data, err := json.Marshal(v)
	w.must(err)
	return data
}

// trust is the pinned document that a gateway was installed with.
func (w *world) trust() *policy.Fleet {
	w.Helper()
	raw, err := os.ReadFile(filepath.Join(w.settings.State, "trust", "fleet.json"))
	w.must(err)
	f, err := policy.ParseFleet(raw)
	w.must(err)
	return f
}

func freePorts(t *testing.T, n int) []string {
	t.Helper()
	addresses, err := freeport.Addresses(n)
	if err != nil {
		t.Fatal(err)
	}
	return addresses
}

func quiet(t *testing.T) *slog.Logger {
	if os.Getenv("GATEWARDEN_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	return slog.New(slog.NewTextHandler(io.Discard, nil))
}

// measured is what the gateways of the lab boot.
func measured() attest.Boot {
	section := func(name string) attest.Section {
		return attest.Section{Name: name, Digest: sha256.Sum256([]byte(name))}
	}
	return attest.Boot{
		Loader: sha256.Sum256([]byte("loader")), LoaderPath: `\EFI\BOOT\BOOTX64.EFI`,
		UKI: sha256.Sum256([]byte("uki")), UKIPath: `\EFI\Linux\gw.efi`, Kernel: sha256.Sum256([]byte("kernel")),
		Sections: []attest.Section{section(".linux"), section(".osrel"), section(".cmdline"), section(".uname")}, CommandLine: "root=a ro",
	}
}

// fakeClock is the machine's clock as the test sets it.
type fakeClock struct {
	mu      sync.Mutex
	offset  time.Duration
	trusted bool
	floor   time.Time
}

func (c *fakeClock) set(offset time.Duration, trusted bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset, c.trusted = offset, trusted
}

func (c *fakeClock) Now() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.offset), c.trusted
}

func (c *fakeClock) Floor() time.Time { return c.floor }

// gateway is one machine with a TPM of its own.
type gateway struct {
	*world
	power *tpmtest.Power // nil: it has none
	dir   string
	log   string // path of the event log
	fs    *fsx.FS
	clock *fakeClock
	fleet *policy.Fleet
	tpm   *tpm.TPM // of the last start

	mu       sync.Mutex
	events   []string
	changed  []string // serials
	verdicts []wire.Verdict
}

func (w *world) gateway() *gateway {
	w.Helper()
	_, power := tpmtest.Start(w.T)
	return w.gatewayOn(power)
}

// gatewayOn boots a machine on this TPM.
func (w *world) gatewayOn(power *tpmtest.Power) *gateway {
	w.Helper()
	dir, err := os.MkdirTemp(w.dir, "gateway")
	w.must(err)
	g := &gateway{
		world: w, power: power, dir: filepath.Join(dir, "identity"), log: filepath.Join(dir, "eventlog"), fs: &fsx.FS{},
		clock: &fakeClock{trusted: true, floor: time.Now().AddDate(0, -1, 0)}, fleet: w.trust(),
	}
	raw, err := attest.CutAtFirstBootApplication(boot.EventLog)
	w.must(err)
	for _, event := range attest.BootEvents(measured()) {
		raw = attest.AppendEvent(raw, event)
	}
	log, err := attest.ParseEventLog(raw)
	w.must(err)
	for _, event := range log.Events {
		if event.Extends() {
			w.must(power.Extend(w.Context(), event.PCR, event.Digest))
		}
	}
	for _, phase := range []string{"sysinit", "ready"} {
		w.must(power.Extend(w.Context(), 11, sha256.Sum256([]byte(phase))))
	}
	w.must(os.WriteFile(g.log, raw, 0o600))
	return g
}

// start is a start of the agent: what was in memory is gone.
func (g *gateway) start() *Identity {
	g.Helper()
	i, err := g.tryStart()
	g.must(err)
	return i
}

func (g *gateway) tryStart() (*Identity, error) {
	g.Helper()
	if g.tpm != nil {
		g.must(g.tpm.Close())
		g.tpm = nil
	}
	if g.power != nil {
		chip, err := tpm.Open(g.Context(), "unix:"+g.power.Socket)
		g.must(err)
		g.tpm = chip
		g.Cleanup(func() { chip.Close() })
	}
	var collector *evidence.Collector
	i, err := New(g.Context(), Config{
		Dir: g.dir, FS: g.fs, TPM: g.tpm, SoftwareKeys: g.power == nil, Fleet: func() *policy.Fleet { return g.fleet }, Clock: g.clock,
		Model: "lab-box", Hostname: "box", Software: "1.0",
		Collect: func(ctx context.Context, c wire.Challenge, keys ...string) (attest.Evidence, error) {
			return collector.Collect(ctx, c, keys...)
		},
		Verdict: func(v wire.Verdict) { g.note(func() { g.verdicts = append(g.verdicts, v) }) },
		Changed: func(c Credential) { g.note(func() { g.changed = append(g.changed, c.Serial()) }) },
		Event:   func(name, _ string) { g.note(func() { g.events = append(g.events, name) }) },
		Log:     quiet(g.T),
	})
	if err != nil {
		return nil, err
	}
	collector, err = evidence.New(evidence.Config{
		TPM: g.tpm, AK: i.AK(), First: i.First(), Fleet: fleetID, Device: i.Device(),
		Claims: func() attest.Claims { return attest.Claims{Version: 1, Software: "1.0"} },
		Logs: func(context.Context) (*os.File, *os.File, error) {
			f, err := os.Open(g.log)
			return f, nil, err
		},
	})
	return i, err
}

func (g *gateway) note(what func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	what()
}

func (g *gateway) saw(event string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Contains(strings.Join(g.events, "\n"), event)
}

// approve lets the device in as soon as it has attested.
func (g *gateway) approve(id string) {
	g.Helper()
	until(g.T, "the device can be approved", func() bool {
		return g.api.Approve(g.Context(), id, approval(true)) == nil
	})
}

// enrolled is a gateway that an operator let in, with its certificate.
func (w *world) enrolled() (*gateway, *Identity) {
	w.Helper()
	g := w.gateway()
	return g, g.enrol()
}

// enrol starts and is let in.
func (g *gateway) enrol() *Identity {
	g.Helper()
	i, w := g.start(), g.world
	done := make(chan error, 1)
	go func() { _, err := i.step(w.Context(), ""); done <- err }()
	g.approve(i.Device())
	w.must(<-done)
	return i
}

// step does what is due; why asks for a renewal.
func (g *gateway) step(i *Identity, why string) {
	g.Helper()
	_, err := i.step(g.Context(), why)
	g.must(err)
}

// serial is that of the credential in use, "" if there is none.
func serial(i *Identity) string {
	c, ok := i.Current()
	if !ok {
		return ""
	}
	return c.Serial()
}

func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func approval(acceptEK bool) operator.Decision {
	return operator.Decision{By: "olga", AcceptEK: acceptEK, AcceptSoftware: acceptEK}
}
