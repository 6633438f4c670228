package messages

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent/link"
	"github.com/gatewarden/gatewarden/fleet/dispatch"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/mqttconn/mqtttest"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const device = "gw-aaaaaaaaaaaaaaaa"

// world is a fleet with a broker and one device.
type world struct {
	*testing.T
	ca       *mqtttest.CA
	peer     peer
	store    *registry.Store
	key      ed25519.PrivateKey
	dispatch *dispatch.Dispatcher
	stop     func() // the fleet's client

	mu       sync.Mutex
	identity string // of the device
	cert     tls.Certificate
	hellos   int
	handled  map[wire.Kind][]string
	refusals []string
}

func newWorld(t *testing.T, ca *mqtttest.CA, p peer) *world {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	store, err := registry.OpenSQLite(filepath.Join(t.TempDir(), "registry.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	w := &world{T: t, ca: ca, peer: p, store: store, key: key, handled: map[wire.Kind][]string{}}
	if _, _, err := store.Enroll(t.Context(), registry.Device{
		ID: device, Model: "test", State: registry.Pending, EKName: []byte("ek"), EKPublic: []byte("ek"), Created: time.Now(),
	}); err != nil {
		t.Fatal(err)
	}
	if err := store.SetState(t.Context(), device, registry.Active, "test", "test", time.Now()); err != nil {
		t.Fatal(err)
	}
	w.become(device)
	fleet := ca.Identity(wire.FleetIdentity)
	w.dispatch, err = dispatch.New(dispatch.Config{
		Brokers: []string{p.URL()}, TLS: func() (*tls.Config, error) { return fleet, nil }, Registry: store, MessageKey: key,
		OnHello: func(context.Context, string, string, wire.Hello) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.hellos++
		},
		OnEvidence: func(_ context.Context, _, _ string, payload []byte) { w.note(wire.KindEvidence, payload) },
		MaxBackoff: 100 * time.Millisecond, Now: time.Now, Log: logger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.stop = w.run(w.dispatch.Run)
	until(t, "the fleet is connected", w.dispatch.Connected)
	return w
}

// run runs task until the test ends.
func (w *world) run(task func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = task(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	w.Cleanup(stop)
	return stop
}

// become gives the device a new certificate for identity.
func (w *world) become(identity string) {
	cert := w.ca.Issue(identity, time.Hour)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.identity, w.cert = identity, cert
}

func (w *world) outbox(limits link.Limits) *link.Outbox {
	w.Helper()
	o, err := link.OpenOutbox(filepath.Join(w.TempDir(), "outbox.db"), limits, logger(w.T))
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { o.Close() })
	return o
}

func (w *world) config(o *link.Outbox) link.Config {
	return link.Config{
		Brokers: func() []string { return []string{w.peer.URL()} },
		TLS: func() (*tls.Config, string, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.ca.Client(w.cert), w.identity, nil
		},
		Outbox: o, Keys: func() []ed25519.PublicKey { return []ed25519.PublicKey{w.key.Public().(ed25519.PublicKey)} },
		Handle: func(_ context.Context, kind wire.Kind, payload []byte) { w.note(kind, payload) },
		Hello:  func() wire.Hello { return wire.Hello{Version: 1, Software: "1.0", Boot: "b", Connected: true} },
		OnRefused: func(reason string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.refusals = append(w.refusals, reason)
		},
		MaxBackoff: 100 * time.Millisecond, Log: logger(w.T),
	}
}

func (w *world) link(o *link.Outbox) *link.Link {
	w.Helper()
	l, err := link.New(w.config(o))
	if err != nil {
		w.Fatal(err)
	}
	w.run(l.Run)
	return l
}

func (w *world) note(kind wire.Kind, payload []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handled[kind] = append(w.handled[kind], string(payload))
}

func (w *world) got(kind wire.Kind) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.handled[kind]...)
}

// feed puts n link-test messages at rate per second, calling each before it.
func (w *world) feed(o *link.Outbox, from, n, rate int, each func(i int)) {
	w.Helper()
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for i := from; i < from+n; i++ {
		if each != nil {
			each(i)
		}
		if err := o.Put(wire.KindLinkTest, time.Now(), wire.LinkTest{Run: "run", Index: i, Of: n}); err != nil {
			w.Fatal(err)
		}
		<-tick.C
	}
}

// drained waits until the fleet has acknowledged everything.
func (w *world) drained(o *link.Outbox) {
	w.Helper()
	until(w.T, "the outbox is empty", func() bool { return o.Pending() == 0 })
}

// exactly checks that link-test messages 0..n-1 arrived once and in order.
func (w *world) exactly(n int) {
	w.Helper()
	indices := w.indices()
	if len(indices) != n {
		w.Fatalf("%d messages arrived, want %d", len(indices), n)
	}
	for i, index := range indices {
		if i != index {
			w.Fatalf("message %d arrived in place of %d", index, i)
		}
	}
}

// indices lists link-test messages as the registry has them, oldest first.
func (w *world) indices() []int {
	w.Helper()
	ms, err := w.store.Messages(w.Context(), device, string(wire.KindLinkTest), registry.MaxPage)
	if err != nil {
		w.Fatal(err)
	}
	indices := make([]int, len(ms))
	for i, m := range ms {
		var l wire.LinkTest
		if err := json.Unmarshal(m.Body, &l); err != nil {
			w.Fatal(err)
		}
		indices[len(ms)-1-i] = l.Index
	}
	return indices
}

func (w *world) events(kind string) []registry.Event {
	w.Helper()
	all, err := w.store.Events(w.Context(), device, 0, registry.MaxPage)
	if err != nil {
		w.Fatal(err)
	}
	var found []registry.Event
	for _, e := range all {
		if e.Kind == kind {
			found = append(found, e)
		}
	}
	return found
}

func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func logger(t *testing.T) *slog.Logger {
	if os.Getenv("GATEWARDEN_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.NewTextHandler(io.Discard, nil))
}
