package update

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"testing"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/helperwire"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/update/release"
)

// policyKey makes a PCR-policy key and the target that publishes it.
func policyKey(t *testing.T) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := tpmpolicy.MarshalKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// TestPolicyKeySwappedOnTheDiskIsNotSealedTo: the key comes from the owner's signed
// metadata, also where there is no network; what somebody laid in its place is not
// believed.
func TestPolicyKeySwappedOnTheDiskIsNotSealedTo(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	key, file := policyKey(t)
	_, others := policyKey(t)
	m.repo.AddTarget("targets", policyKeys("gw"), file)
	m.repo.PublishAll()
	engine := func() *Engine {
		e, err := m.newEngine(&fsx.FS{})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	want := func(e *Engine) {
		t.Helper()
		got, err := e.PolicyKey(t.Context(), "gw")
		if err != nil || !key.PublicKey.Equal(got) {
			t.Errorf("got %v, %v", got, err)
		}
	}
	want(engine())
	m.down.Store(true)
	want(engine()) // from the disk, held to what was verified before
	kept := m.path("state/update/" + keysFile)
	if err := os.WriteFile(kept, others, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := engine().PolicyKey(t.Context(), "gw"); err == nil {
		t.Errorf("the swapped key was taken: %v", got)
	}
	m.down.Store(false)
	want(engine())
	m.down.Store(true)
	if err := os.WriteFile(m.path("state/tuf/targets.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := engine().PolicyKey(t.Context(), "gw"); err == nil {
		t.Errorf("with damaged metadata and no network: %v", got)
	}
}

// TestRunningReleaseIsKnownWithoutTheNetwork: one that was fetched, or that an
// update brought; and one that the owner does not know is said to be.
func TestRunningReleaseIsKnownWithoutTheNetwork(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.publish(author("1.0.0"), m.image("1.0.0", 0))
	e, err := m.newEngine(&fsx.FS{})
	if err != nil {
		t.Fatal(err)
	}
	slots := helperwire.Slots{Product: "gw", Channel: "stable", Version: "1.0.0"}
	want := func(version string) {
		t.Helper()
		slots.Version = version
		if r, err := e.Running(t.Context(), slots); err != nil || r.Version != version {
			t.Errorf("release %s: %+v, %v", version, r, err)
		}
	}
	want("1.0.0")
	m.down.Store(true)
	want("1.0.0")
	m.down.Store(false)
	slots.Version = "1.0.1"
	if r, err := e.Running(t.Context(), slots); !errors.Is(err, ErrNoRelease) {
		t.Errorf("a release that nobody published: %+v, %v", r, err)
	}
	m.publish(author("2.0.0"), m.image("2.0.0", 4))
	m.live(m.settled(1))
	m.wantOutcome(wire.UpdateInstalled, "", "2.0.0")
	m.down.Store(true)
	if e, err = m.newEngine(&fsx.FS{}); err != nil {
		t.Fatal(err)
	}
	want("2.0.0")
}

// TestReleaseSwappedOnTheDiskIsNotSealedFor: what the next slot will measure is
// believed only as the owner's metadata have it, with no network.
func TestReleaseSwappedOnTheDiskIsNotSealedFor(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	k := &keeper{m: m}
	m.secrets = k
	m.publish(author("2.0.0"), m.image("2.0.0", 4))
	e, err := m.newEngine(&fsx.FS{})
	m.must(err)
	m.engine = e
	signed, err := e.lookUp(t.Context(), "releases/gw/stable/", "2.0.0.json")
	m.must(err)
	m.down.Store(true)
	job := Job{Release: "2.0.0", Target: "releases/gw/stable/2.0.0.json", Old: "a"}
	kept := m.path("state/update/" + releaseFile)
	m.must(os.WriteFile(kept, signed, 0o600))
	if err := e.foresee(t.Context(), job); err != nil || len(k.calls) != 1 {
		t.Errorf("as it was signed: %v, calls %v", err, k.calls)
	}
	r, err := release.Parse(signed)
	m.must(err)
	r.Reference = json.RawMessage(`{"product":"gw","version":"2.0.0","command_lines":["init=/bin/sh"]}`)
	swapped, err := json.Marshal(r)
	m.must(err)
	m.must(os.WriteFile(kept, swapped, 0o600))
	if err := e.foresee(t.Context(), job); err == nil || len(k.calls) != 1 {
		t.Errorf("a swapped one: %v, calls %v", err, k.calls)
	}
	job.Target = "releases/gw/stable/3.0.0.json"
	if err := e.foresee(t.Context(), job); err == nil || len(k.calls) != 1 {
		t.Errorf("one that the owner does not know: %v, calls %v", err, k.calls)
	}
}
