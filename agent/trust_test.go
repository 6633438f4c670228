package agent_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent"
	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/internal/bench/rig"
	"github.com/gatewarden/gatewarden/internal/conf"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/update/tuf/tuftest"
)

const (
	fleetDocument     = "trust/fleet.json"
	operatorsDocument = "policy/operators.json"
)

// owner is the owner of a fleet, with a repository on two mirrors.
type owner struct {
	*world
	t     *testing.T
	mu    sync.Mutex
	repo  *tuftest.Repo
	stale *tuftest.Repo // what the second mirror serves; nil: the same
	asked [2]int
}

// newOwner installs the root of a repository on the world's gateway.
func newOwner(t *testing.T) *owner {
	t.Helper()
	o := &owner{t: t, repo: tuftest.New(t)}
	o.world = newWorldOn(t, func(fleet string) string {
		trust := t.TempDir()
		for _, name := range []string{policy.FleetFile, policy.OperatorsFile} {
			data, err := os.ReadFile(filepath.Join(fleet, name))
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(trust, name), string(data))
		}
		write(t, filepath.Join(trust, "root.json"), string(o.repo.Served["root"][0]))
		return trust
	})
	o.gateway.Settings.Update.Interval = conf.Duration(50 * time.Millisecond)
	o.gateway.Settings.Update.Auto = false
	for i := range o.asked {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.asked[i]++
			if i == 1 && o.stale != nil {
				o.stale.ServeHTTP(w, r)
				return
			}
			o.repo.ServeHTTP(w, r)
		}))
		t.Cleanup(server.Close)
		o.gateway.Settings.Update.Mirrors = append(o.gateway.Settings.Update.Mirrors, server.URL)
	}
	return o
}

// sign publishes a document.
func (o *owner) sign(path string, document any) {
	o.t.Helper()
	data, err := json.Marshal(document)
	if err != nil {
		o.t.Fatal(err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.repo.AddTarget("targets", path, data)
	o.repo.Publish("targets", "snapshot", "timestamp")
}

func operators(issued time.Time) policy.Operators {
	return policy.Operators{Version: 1, Issued: issued, Fleet: rig.Name, People: []policy.Person{}, Verbs: map[string]policy.Grant{}}
}

func (o *owner) installed() policy.Fleet {
	o.t.Helper()
	raw, err := os.ReadFile(filepath.Join(o.gateway.Settings.Trust, policy.FleetFile))
	if err != nil {
		o.t.Fatal(err)
	}
	f, err := policy.ParseFleet(raw)
	if err != nil {
		o.t.Fatal(err)
	}
	return *f
}

// start is a new agent that does not run.
func (o *owner) start(b agent.Build) *agent.Agent {
	o.t.Helper()
	a, err := agent.New(o.t.Context(), o.gateway.Settings, b, rig.Quiet())
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(a.Close)
	return a
}

func soon() time.Time { return time.Now().Add(time.Hour).UTC().Truncate(time.Second) }

func TestOperatorsThatTheOwnerPublishedAreInForceAndStayItOffline(t *testing.T) {
	o := newOwner(t)
	issued := soon()
	o.sign(operatorsDocument, operators(issued))
	a := o.start(build())
	if err := a.LookForTrust(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if _, got := a.Trust(); !got.Equal(issued) || !a.Floor().Equal(issued) {
		t.Errorf("in force is the document of %s, want %s; the floor is %s", got, issued, a.Floor())
	}
	if raw, err := os.ReadFile(filepath.Join(filepath.Dir(o.gateway.Settings.State), "helper", policy.OperatorsFile)); err != nil || !strings.Contains(string(raw), `"root":`) {
		t.Errorf("the helper keeps %s, %v", raw, err)
	}
	a.Close()
	o.gateway.Settings.Update.Mirrors = []string{"https://127.0.0.1:1"}
	a = o.start(build())
	if _, got := a.Trust(); !got.Equal(issued) {
		t.Errorf("after a restart offline it is that of %s", got)
	}
	a.Close()
	// Somebody lays another one there: the owner's metadata do not vouch for it.
	forged, err := json.Marshal(operators(issued.Add(time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(o.gateway.Settings.State, "trust", policy.OperatorsFile), string(forged))
	a = o.start(build())
	if _, got := a.Trust(); got.After(issued) || !slices.Contains(a.Audit(3), "trust.not-recalled") {
		t.Errorf("a forged document of %s is in force, events %q", got, a.Audit(3))
	}
}

func TestDocumentThatIsStaleForeignOrWronglySignedChangesNothing(t *testing.T) {
	o := newOwner(t)
	good := soon()
	o.sign(operatorsDocument, operators(good))
	a := o.start(build())
	if err := a.LookForTrust(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	foreign := operators(good.Add(time.Hour))
	foreign.Fleet = "other"
	oldFleet := o.installed()
	oldFleet.Issued = oldFleet.Issued.Add(-time.Second)
	oldFleet.API = []string{"https://thief.example:1"}
	in2090 := operators(time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC))
	for _, c := range []struct {
		name string
		do   func()
		want string
	}{
		{"issued before the one in force", func() { o.sign(operatorsDocument, operators(good.Add(-time.Second))) }, "the one in force on"},
		{"of another fleet", func() { o.sign(operatorsDocument, foreign) }, `it is of fleet "other"`},
		{"issued in 2090", func() { o.sign(operatorsDocument, in2090) }, "after the end of the root"},
		{"no document", func() { o.sign(operatorsDocument, "x") }, "read operators document"},
		{"fleet.json of before", func() {
			o.sign(operatorsDocument, operators(good))
			o.sign(fleetDocument, oldFleet)
		}, "trust/fleet.json is not taken: it was issued on"},
		{"altered on the way", func() {
			o.sign(fleetDocument, o.installed())
			o.sign(operatorsDocument, operators(good.Add(2*time.Hour)))
			o.mu.Lock()
			defer o.mu.Unlock()
			o.repo.Files[operatorsDocument][9] ^= 1
		}, "refused (hash)"},
		{"signed by nobody", func() {
			o.sign(operatorsDocument, operators(good.Add(3*time.Hour)))
			o.mu.Lock()
			defer o.mu.Unlock()
			o.repo.Alter("targets", func(file map[string]any) { file["signatures"] = []any{} })
		}, "refused (signature)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.do()
			if err := a.LookForTrust(t.Context(), 0); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if fleet, ops := a.Trust(); !ops.Equal(good) || !fleet.Equal(o.installed().Issued) {
				t.Errorf("in force are the documents of %s and %s", fleet, ops)
			}
			if floor := a.Floor(); !floor.Equal(good) {
				t.Errorf("the time floor is %s", floor)
			}
		})
	}
}

// A mirror that serves what was true yesterday can't hide what the others have, and
// neither can it take back what the device has seen.
func TestMirrorThatFreezesHidesNothing(t *testing.T) {
	o := newOwner(t)
	o.stale = o.repo
	old := *o.repo
	old.Served = map[string][][]byte{}
	for role, files := range o.repo.Served {
		old.Served[role] = slices.Clone(files)
	}
	o.stale = &old
	issued := soon()
	o.sign(operatorsDocument, operators(issued))
	a := o.start(build())
	if err := a.LookForTrust(t.Context(), 1); err != nil {
		t.Errorf("the stale mirror alone: %v", err)
	}
	if _, got := a.Trust(); got.Equal(issued) {
		t.Fatal("the stale mirror is not stale")
	}
	if err := a.LookForTrust(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	if _, got := a.Trust(); !got.Equal(issued) {
		t.Error("the other mirror was not asked")
	}
	if err := a.LookForTrust(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "rollback") {
		t.Errorf("the stale mirror again: %v", err)
	}
	if _, got := a.Trust(); !got.Equal(issued) {
		t.Error("the device went back")
	}
}

// Keys of targets were stolen and dated a document a month ahead. A new root takes
// the date back, and with it the floor.
func TestNewRootTakesBackADateOfTheFuture(t *testing.T) {
	o := newOwner(t)
	future := tuftest.Epoch().AddDate(0, 0, 20)
	o.sign(operatorsDocument, operators(future))
	a := o.start(build())
	if err := a.LookForTrust(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if !a.Floor().Equal(future) {
		t.Fatalf("the floor is %s", a.Floor())
	}
	o.mu.Lock()
	o.repo.Root.Signed.Expires = tuftest.Epoch().AddDate(1, 0, 0)
	o.repo.Rotate("targets")
	o.repo.Publish("root")
	o.mu.Unlock()
	now := soon()
	o.sign(operatorsDocument, operators(now))
	if err := a.LookForTrust(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if _, got := a.Trust(); !got.Equal(now) || !a.Floor().Equal(now) {
		t.Errorf("in force is the document of %s, the floor is %s, want %s", got, a.Floor(), now)
	}
	a.Close()
	if a = o.start(build()); !a.Floor().Equal(now) {
		t.Errorf("after a restart the floor is %s", a.Floor())
	}
}

func TestWrongClockKeepsNobodyFromTheOwnersDocuments(t *testing.T) {
	for name, now := range map[string]time.Time{
		"1970": time.Unix(0, 0), "ten years ahead": time.Now().AddDate(10, 0, 0), "a year behind": time.Now().AddDate(-1, 0, 0),
	} {
		t.Run(name, func(t *testing.T) {
			o := newOwner(t)
			issued := soon()
			o.sign(operatorsDocument, operators(issued))
			b := build()
			b.Now, b.Synced = func() time.Time { return now }, func() bool { return false }
			a := o.start(b)
			if err := a.LookForTrust(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			if _, got := a.Trust(); !got.Equal(issued) || !a.Floor().Equal(issued) {
				t.Errorf("in force is the document of %s, the floor is %s, want %s", got, a.Floor(), issued)
			}
		})
	}
}

// The fleet server is stolen. The owner starts another one, signs where it is and
// how to know it, and the gateways go there by themselves; what the old server says
// of the matter counts for nothing.
func TestOwnerMovesAFleetAwayFromAStolenServer(t *testing.T) {
	o := newOwner(t)
	r := o.enrolled(t, build())
	old := r.Status().Certificate
	second, err := rig.StartFleet(shortDir(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { second.Close() })
	raw, err := os.ReadFile(filepath.Join(second.Trust(), policy.FleetFile))
	if err != nil {
		t.Fatal(err)
	}
	next, err := policy.ParseFleet(raw)
	if err != nil {
		t.Fatal(err)
	}
	next.Issued = soon()
	o.sign(fleetDocument, next)
	approved := make(chan error, 1)
	go func() { approved <- second.Approve(t.Context(), r.Device()) }()
	s := r.await(t, func(s local.Status) error {
		switch {
		case !s.Link.Connected || s.Link.Broker != next.Broker[0]:
			return fmt.Errorf("connected %v to %s: %s; %s", s.Link.Connected, s.Link.Broker, s.Phase, s.Problem)
		case s.Certificate.Serial == old.Serial:
			return errors.New("the certificate is of the old fleet")
		}
		return nil
	})
	if err := <-approved; err != nil {
		t.Error(err)
	}
	if s.Device != r.Device() || s.Certificate.Identity != r.Device() {
		t.Errorf("the device is %s with %s now", s.Device, s.Certificate.Identity)
	}
	r.end(t)
	o.gateway.Settings.Update.Mirrors = []string{"https://127.0.0.1:1"}
	r = o.run(t, build())
	r.await(t, func(s local.Status) error {
		if !s.Link.Connected || s.Link.Broker != next.Broker[0] {
			return fmt.Errorf("after a restart: %s, %s", s.Link.Broker, s.Problem)
		}
		return nil
	})
}
