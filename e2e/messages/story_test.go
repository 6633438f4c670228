package messages

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet"
	"github.com/gatewarden/gatewarden/fleet/operator"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/bench/rig"
	"github.com/gatewarden/gatewarden/internal/mqttconn"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const loadMessages = 150

// TestWholeLifeOfAGatewayWithEitherBroker runs the real parts: a fleet server, the
// agent with an emulated TPM, and the embedded broker or Mosquitto as the docs
// configure it.
func TestWholeLifeOfAGatewayWithEitherBroker(t *testing.T) {
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		w := newWhole(t, nil)
		w.peer = &server{w.fleet}
		w.live()
	})
	t.Run("mosquitto", func(t *testing.T) {
		t.Parallel()
		path, err := exec.LookPath("mosquitto")
		if err != nil {
			t.Skip("mosquitto is not installed: apt-get install mosquitto")
		}
		m := &mosquitto{path: path, dir: t.TempDir(), address: freeAddress(t)}
		w := newWhole(t, func(s *fleet.Settings) { beside(t, s, m.address) })
		w.docks(m).everySecond(t)
		w.live()
	})
}

// A broker looks at a certificate when a session begins. Here nobody even gives it the
// list of revoked ones, so that the server alone ends sessions, again and again.
func TestServerEndsSessionsOfARevokedGatewayAtABrokerThatKeepsThem(t *testing.T) {
	t.Parallel()
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		t.Skip("mosquitto is not installed: apt-get install mosquitto")
	}
	m := &mosquitto{path: path, dir: t.TempDir(), address: freeAddress(t)}
	w := newFleet(t, shortDir(t), func(s *fleet.Settings) { beside(t, s, m.address) })
	w.docks(m)
	stolen, good := w.member(other), w.member(device)
	dial := func(o mqttconn.Options) *mqttconn.Conn {
		c, err := mqttconn.Dial(t.Context(), o)
		must(t, err)
		t.Cleanup(c.Close)
		return c
	}
	session, bystander := dial(stolen), dial(good)
	must(t, w.fleet.API.Revoke(t.Context(), other, operator.Decision{By: "olga", Reason: "stolen"}))
	for range 2 { // the broker lets it in again
		select {
		case <-session.Done():
		case <-time.After(3 * time.Minute):
			t.Fatal("the session of a revoked gateway stays open")
		}
		session = dial(stolen)
	}
	if err := bystander.Publish(t.Context(), mqttconn.Message{Topic: wire.UpTopic(device, wire.KindHello), Payload: []byte("{}"), QoS: 1}); err != nil {
		t.Errorf("another gateway's session: %v", err)
	}
}

// server is the embedded broker, which dies with its server.
type server struct{ *rig.Fleet }

func (s *server) URL() string { return s.Settings.Public.MQTT[0] }

func (s *server) Start(t *testing.T) {
	t.Helper()
	if err := s.Fleet.Start(); err != nil {
		t.Fatal(err)
	}
}

func (s *server) Kill(t *testing.T) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// beside has the fleet use an external broker, as the example in the docs does.
func beside(t *testing.T, s *fleet.Settings, address string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fleet.toml")
	text := strings.ReplaceAll(example(t, "fleet-mosquitto.toml"), "broker.example.org:8883", address)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	read, err := fleet.LoadSettings(path)
	if err != nil {
		t.Fatal(err)
	}
	s.Public.MQTT, s.Broker = read.Public.MQTT, read.Broker
}

// whole is a fleet with its broker and one gateway, all of them real.
type whole struct {
	*testing.T
	fleet   *rig.Fleet
	gateway *rig.Gateway
	agent   *gatewayAgent
	people  *person
	peer    peer
	foreign chan mqttconn.Message // what reaches another device that listens where it should not
}

func newWhole(t *testing.T, change func(*fleet.Settings)) *whole {
	t.Helper()
	dir := shortDir(t)
	w := newFleet(t, dir, change)
	w.people.writeOperators(t, filepath.Join(w.fleet.Trust(), policy.OperatorsFile))
	w.gateway = bootGateway(t, dir, w.fleet.Trust())
	return w
}

func newFleet(t *testing.T, dir string, change func(*fleet.Settings)) *whole {
	t.Helper()
	f, err := rig.StartFleet(dir, change)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return &whole{T: t, fleet: f, people: newPerson(t), foreign: make(chan mqttconn.Message, 1000)}
}

// docks has Mosquitto join the fleet: a certificate of the fleet, and the list of
// revoked ones, which the timer keeps fresh.
func (w *whole) docks(m *mosquitto) *crlTimer {
	w.Helper()
	host, _, _ := net.SplitHostPort(m.address)
	must(w.T, fleet.IssuePeer(w.Context(), w.fleet.Settings, "broker", []string{host}, time.Hour, m.dir, time.Now()))
	m.configure(w.T)
	list := &crlTimer{broker: m, url: w.fleet.Settings.Public.API[0]}
	_, err := list.fetch()
	must(w.T, err)
	w.peer = started(w.T, m)
	return list
}

func (w *whole) live() {
	w.Helper()
	w.enrol()
	w.othersAreKeptOut()
	w.messagesSurviveTheBroker()
	w.rotate()
	w.quarantineAndBack()
	w.revoke()
	select {
	case m := <-w.foreign:
		w.Errorf("another device got a message of topic %s", m.Topic)
	default:
	}
}

// enrol lets the gateway in, and waits until it is judged, has reported its health
// and has obeyed.
func (w *whole) enrol() {
	w.Helper()
	w.agent = startAgent(w.T, w.gateway)
	id := w.agent.Device()
	must(w.T, w.fleet.Approve(w.Context(), id))
	w.await("enrolled and trusted", func(s local.Status) bool {
		return s.Link.Connected && s.Link.Broker == w.peer.URL() && s.Verdict != nil && s.Verdict.Grade == "trusted" && s.Outbox.Pending == 0
	})
	if d := w.device(); len(d.Health) == 0 || d.Verdict == nil || d.Verdict.Grade != "trusted" {
		w.Errorf("the fleet knows health %s, verdict %+v", d.Health, d.Verdict)
	}
	w.done(policy.VerbPing, nil)
}

// othersAreKeptOut has another device of the fleet try the gateway's topics, and
// listen to them from here on.
func (w *whole) othersAreKeptOut() {
	w.Helper()
	options := w.member(other)
	options.OnMessage = func(m mqttconn.Message) { w.foreign <- m }
	conn, err := mqttconn.Dial(w.Context(), options)
	must(w.T, err)
	w.Cleanup(conn.Close)
	id := w.agent.Device()
	for topic, allowed := range map[string]bool{
		wire.UpTopic(other, wire.KindHealth): true, wire.UpTopic(id, wire.KindHealth): false, wire.UpTopic(wire.QuarantineID(id), wire.KindHello): false,
		wire.UpTopic(wire.QuarantineID(other), wire.KindHealth): false, wire.DownTopic(id, wire.KindCommand): false, wire.DownTopic(other, wire.KindCommand): false,
	} {
		if err := conn.Publish(w.Context(), mqttconn.Message{Topic: topic, Payload: []byte("{}"), QoS: 1}); (err == nil) != allowed {
			w.Errorf("publish on %s: %v", topic, err)
		}
	}
	// Mosquitto grants a subscription to anything and sends nothing of it; the embedded
	// broker refuses.
	for _, filter := range []string{wire.DownTopic(id, "+"), wire.UpTopic("+", "+"), "$share/fleet/" + wire.UpTopic("+", "+"), "#"} {
		if err := conn.Subscribe(w.Context(), filter); err != nil {
			w.Logf("subscribe to %s: %v", filter, err)
		}
	}
}

// messagesSurviveTheBroker kills the broker at random moments of a link test.
func (w *whole) messagesSurviveTheBroker() {
	w.Helper()
	run := w.send(policy.VerbLinkTest, map[string]int{"messages": loadMessages, "rate": 50})
	seed := rand.Uint64()
	w.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 2 { // the broker lets it in again
		already := len(w.indices(run.ID))
		w.await("some messages have arrived", func(local.Status) bool { return len(w.indices(run.ID)) > min(already+r.IntN(20), loadMessages-1) })
		w.peer.Kill(w.T)
		w.peer.Start(w.T)
	}
	w.receipt(run)
	w.await("the outbox is empty", func(s local.Status) bool { return s.Outbox.Pending == 0 && s.Outbox.Dropped == 0 })
	indices := w.indices(run.ID)
	for i, index := range indices {
		if index != i+1 {
			w.Fatalf("message %d arrived in place of %d", index, i+1)
		}
	}
	if len(indices) != loadMessages {
		w.Fatalf("%d messages arrived, want %d", len(indices), loadMessages)
	}
}

// rotate renews the certificate by command, and commands by the new one.
func (w *whole) rotate() {
	w.Helper()
	before := w.agent.Status()
	w.done(policy.VerbRotate, nil)
	w.await("connected by a new certificate", func(s local.Status) bool {
		return s.Certificate.Serial != before.Certificate.Serial && s.Link.Connected && s.Link.Since.After(before.Link.Since)
	})
	w.done(policy.VerbPing, nil)
}

// quarantineAndBack takes the gateway's software from the policy and puts it back.
func (w *whole) quarantineAndBack() {
	w.Helper()
	id := w.agent.Device()
	w.policy("another command line")
	w.await("in quarantine", func(s local.Status) bool { return s.Link.Connected && s.Link.Identity == wire.QuarantineID(id) })
	if d := w.device(); d.State != registry.Quarantined {
		w.Errorf("the fleet has it as %s", d.State)
	}
	w.done(policy.VerbPing, nil) // by the topics of q-<id>
	w.policy(rig.BootSoftware().CommandLine)
	w.await("healed", func(s local.Status) bool { return s.Link.Connected && s.Link.Identity == id })
	w.done(policy.VerbPing, nil)
}

// revoke shuts the gateway out: its session ends, and no other begins.
func (w *whole) revoke() {
	w.Helper()
	id := w.agent.Device()
	must(w.T, w.fleet.API.Revoke(w.Context(), id, operator.Decision{By: "olga", Reason: "stolen"}))
	began, out := time.Now(), time.Time{}
	w.await("cut off for good", func(s local.Status) bool {
		if s.Link.Connected {
			out = time.Time{}
		} else if out.IsZero() {
			out = time.Now()
		}
		return !out.IsZero() && time.Since(out) > 5*time.Second && strings.Contains(s.Problem, "revoked")
	})
	w.Logf("cut off %s after the revocation", out.Sub(began).Round(100*time.Millisecond))
	if d := w.device(); d.State != registry.Revoked {
		w.Errorf("the fleet has it as %s", d.State)
	}
}

// policy makes commandLine the only good one, and has the gateway judged by that.
func (w *whole) policy(commandLine string) {
	w.Helper()
	boot := rig.BootSoftware()
	boot.CommandLine = commandLine
	raw, err := json.Marshal(attest.Policy{Version: 1, Issued: time.Now().UTC(), Fleet: rig.Name, Releases: []attest.Release{boot.Release("rig", "1.0.0")}})
	must(w.T, err)
	must(w.T, w.fleet.Close())
	must(w.T, os.WriteFile(w.fleet.Settings.Policy, raw, 0o600))
	must(w.T, w.fleet.Start())
	ctx, cancel := context.WithTimeout(w.Context(), 3*time.Minute)
	defer cancel()
	must(w.T, rig.Await(ctx, "attest", func() error { return w.agent.Attest(ctx) }))
}

func (w *whole) await(what string, ok func(local.Status) bool) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 4*time.Minute)
	defer cancel()
	must(w.T, rig.Await(ctx, what, func() error {
		if s := w.agent.Status(); !ok(s) {
			return fmt.Errorf("%s; %s; link %+v; verdict %+v", s.Phase, s.Problem, s.Link, s.Verdict)
		}
		return nil
	}))
}

func (w *whole) device() operator.Detail {
	w.Helper()
	d, err := w.fleet.API.Device(w.Context(), w.agent.Device())
	must(w.T, err)
	return d
}

// indices lists the link-test messages of run as the registry has them, oldest first.
func (w *whole) indices(run string) []int {
	w.Helper()
	ms, err := w.fleet.Server.Store().Messages(w.Context(), w.agent.Device(), string(wire.KindLinkTest), registry.MaxPage)
	must(w.T, err)
	var indices []int
	for i := len(ms) - 1; i >= 0; i-- {
		var l wire.LinkTest
		must(w.T, json.Unmarshal(ms[i].Body, &l))
		if l.Run == run {
			indices = append(indices, l.Index)
		}
	}
	return indices
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
