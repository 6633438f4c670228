package years

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet"
	"github.com/gatewarden/gatewarden/fleet/operator"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/bench/rig"
	"github.com/gatewarden/gatewarden/internal/policy"
)

const fleetID = "years"

// world is a fleet server in this process, and the cables to it.
type world struct {
	*testing.T
	*calendar
	dir       string
	settings  fleet.Settings
	server    *fleet.Server
	operators *operator.Client
	api, mqtt *cable
	stop      func()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw") // short: sockets live in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{T: t, calendar: newCalendar(time.Now()), dir: dir}
	s := fleet.DefaultSettings()
	s.Fleet, s.State, s.Policy = fleetID, filepath.Join(dir, "fleet"), filepath.Join(dir, "policy.json")
	s.Listen = fleet.Listen{API: freeAddress(t), MQTT: freeAddress(t), Dashboard: freeAddress(t), Operator: filepath.Join(dir, "o")}
	w.api, w.mqtt = newCable(t, s.Listen.API), newCable(t, s.Listen.MQTT)
	s.Public = fleet.Public{API: []string{"https://" + w.api.address}, MQTT: []string{"mqtts://" + w.mqtt.address}}
	w.settings, w.operators = s, operator.NewClient(s.Listen.Operator)
	w.must(fleet.Init(s, w.Now()))
	data, err := json.Marshal(attest.Policy{
		Version: 1, Issued: w.Now().UTC(), Fleet: fleetID, Releases: []attest.Release{rig.BootSoftware().Release("lab", "1")},
	})
	w.must(err)
	w.must(os.WriteFile(s.Policy, data, 0o600))
	w.serve()
	return w
}

// serve runs the server until the test ends or stop is called.
func (w *world) serve() {
	w.Helper()
	server, err := fleet.NewByClock(w.settings, "years", w.Now, quiet(w.T))
	w.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	w.server = server
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.Errorf("the fleet server ended: %v", err)
		}
	})
	w.Cleanup(w.stop)
}

// trust is the document that a gateway is installed with.
func (w *world) trust() *policy.Fleet {
	w.Helper()
	raw, err := os.ReadFile(filepath.Join(w.settings.State, "trust", "fleet.json"))
	w.must(err)
	f, err := policy.ParseFleet(raw)
	w.must(err)
	return f
}

// journal lists what the fleet ever issued to a device.
func (w *world) journal(id string) []registry.Certificate {
	w.Helper()
	all, err := w.server.Store().Certificates(w.Context(), id)
	w.must(err)
	return all
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func by(reason string) operator.Decision {
	return operator.Decision{By: "olga", Reason: reason, AcceptEK: true}
}

func quiet(t *testing.T) *slog.Logger {
	if os.Getenv("GATEWARDEN_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	return slog.New(slog.NewTextHandler(io.Discard, nil))
}
