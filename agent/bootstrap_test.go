package agent_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent"
	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/internal/bench/rig"
	"github.com/gatewarden/gatewarden/internal/policy"
)

// unanchored takes the anchors out of the installed fleet.json and returns the root's
// fingerprint.
func (w *world) unanchored(t *testing.T) (pin string) {
	t.Helper()
	path := filepath.Join(w.gateway.Settings.Trust, policy.FleetFile)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := policy.ParseFleet(raw)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(f.Anchors[0]))
	f.Anchors = []string{}
	if raw, err = json.Marshal(f); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:])
}

func (w *world) caFile() string { return filepath.Join(w.gateway.Settings.State, "ca.pem") }

func TestPinnedFingerprintIsEnoughToKnowTheFleet(t *testing.T) {
	w := newWorld(t)
	w.gateway.Settings.Identity.CA = w.unanchored(t)
	r := w.enrolled(t, build())
	if !slices.Contains(r.Audit(100), "ca.fetched") {
		t.Errorf("audit log: %v", r.Audit(100))
	}
	r.end(t)
	began := time.Now()
	r = w.run(t, build())
	r.await(t, well(began))
	if err := os.WriteFile(w.caFile(), []byte(strings.Repeat("x", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	r.end(t)
	fetched := func() (n int) {
		for _, name := range r.Audit(1000) {
			if name == "ca.fetched" {
				n++
			}
		}
		return n
	}
	if n := fetched(); n != 1 {
		t.Errorf("the CA was fetched %d times: the kept one is not used", n)
	}
	began = time.Now()
	r = w.run(t, build())
	r.await(t, well(began))
	if n := fetched(); n != 2 {
		t.Errorf("the CA was fetched %d times: a damaged one is not replaced", n)
	}
}

// A server with another CA, such as one in the middle, learns nothing but that
// somebody asked.
func TestServerThatShowsAnotherCAThanThePinnedIsRefusedAndNothingIsKept(t *testing.T) {
	w := newWorld(t)
	pin := w.unanchored(t)
	wrong := strings.Repeat("0", 64)
	w.gateway.Settings.Identity.CA = wrong
	r := w.run(t, build())
	r.await(t, func(s local.Status) error {
		if s.Certificate != nil || s.Link.Connected {
			t.Fatal("it trusts the server")
		}
		if !slices.Contains(r.Audit(100), "ca.refused") {
			return errors.New("nothing is said")
		}
		return nil
	})
	if log, err := os.ReadFile(filepath.Join(w.gateway.Settings.State, "audit.log")); err != nil || !strings.Contains(string(log), pin) || !strings.Contains(string(log), wrong) {
		t.Errorf("the audit log does not name both fingerprints: %v", err)
	}
	if _, err := os.Stat(w.caFile()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("kept: %v", err)
	}
	if list, err := w.fleet.API.Devices(t.Context(), url.Values{}); err != nil || len(list) != 0 {
		t.Errorf("the server knows %v, %v", list, err)
	}
}

func TestFleetWithoutAnchorsAndWithoutPinIsSaid(t *testing.T) {
	w := newWorld(t)
	w.unanchored(t)
	a, err := agent.New(t.Context(), w.gateway.Settings, build(), rig.Quiet())
	if err == nil {
		a.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "names no anchors") || !strings.Contains(err.Error(), "hint: set `identity.ca`") {
		t.Errorf("error %v", err)
	}
	path := filepath.Join(t.TempDir(), "agent.toml")
	for pin, good := range map[string]bool{"": true, strings.Repeat("0f", 32): true, strings.Repeat("0F:", 31) + "0F": true, "0f": false, strings.Repeat("x", 64): false} {
		if err := os.WriteFile(path, []byte("[identity]\nca = \""+pin+"\"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := agent.LoadSettings(path); (err == nil) != good || good && s.Identity.CA != strings.ToLower(strings.ReplaceAll(pin, ":", "")) {
			t.Errorf("%q: %q, %v", pin, s.Identity.CA, err)
		}
	}
}
