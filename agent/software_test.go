package agent_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent"
	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/internal/bench/rig"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/sshsig"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// bareWorld is a fleet and a gateway without a TPM. No emulator is running.
func bareWorld(t *testing.T) *world {
	t.Helper()
	dir := shortDir(t)
	fleet, err := rig.StartFleet(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fleet.Close() })
	gateway, err := rig.Bare(filepath.Join(dir, "gateway"), fleet.Trust())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { gateway.Close() })
	return &world{fleet: fleet, gateway: gateway}
}

// bareWell is well for a gateway without a TPM.
func bareWell(since time.Time) func(local.Status) error {
	return func(s local.Status) error {
		if s.Verdict != nil && !s.Verdict.Issued.Before(since) && s.Verdict.Grade != "degraded" {
			return fmt.Errorf("%s: %s", s.Verdict.Grade, s.Verdict.Explanation)
		}
		if s.Verdict != nil {
			v := *s.Verdict
			v.Grade, s.Verdict = "trusted", &v
		}
		return well(since)(s)
	}
}

// TestGatewayWithoutTPMSaysSoEverywhereAndObeys is the whole path: it enrols, is let
// in, reports, is judged, obeys, and renews, and says at each place what it is.
func TestGatewayWithoutTPMSaysSoEverywhereAndObeys(t *testing.T) {
	w := bareWorld(t)
	signer := w.operator(t)
	began := time.Now()
	b := build()
	b.Synced = func() bool { return true }
	r := w.run(t, b)
	w.approve(t, r.Device())
	s := r.await(t, bareWell(began))
	if !s.SoftwareKeys || s.Certificate.Gate != wire.GateShort || !strings.Contains(s.Verdict.Explanation[0], "software keys") || s.Verdict.Result != "" {
		t.Errorf("status %+v, verdict %+v", s, s.Verdict)
	}
	id := r.Device()
	w.sent(t, w.command(t, signer, id, "ping"), id)
	d, err := w.fleet.API.Device(t.Context(), id)
	if err != nil || d.Keys != "software" || d.EKVerified || d.Verdict.Gate != "short" || !strings.Contains(string(d.Health), `"software keys: there is no TPM`) {
		t.Errorf("the fleet knows %+v, %v", d, err)
	}
	if d.Commands[0].Receipts[0].Outcome != wire.OutcomeDone {
		t.Errorf("receipt %+v", d.Commands[0].Receipts)
	}
	before := s.Certificate.Serial
	if after, err := local.RenewCertificate(t.Context(), w.gateway.Settings.Socket); err != nil || after.Certificate.Serial == before {
		t.Errorf("renewed to %+v, %v", after.Certificate, err)
	}
	if _, err := local.Seal(t.Context(), w.gateway.Settings.Socket, "key", local.Sealing{Data: []byte("x")}); err == nil || !strings.Contains(err.Error(), "has no TPM") {
		t.Errorf("sealed without a TPM: %v", err)
	}
	// A restart is the same device, on its own.
	r.end(t)
	began = time.Now()
	again := w.run(t, b)
	again.await(t, bareWell(began))
	if again.Device() != id {
		t.Errorf("after a restart it is %s, not %s", again.Device(), id)
	}
}

// operator makes a person who may ping and reboot.
func (w *world) operator(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := sshsig.KeyOf(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(policy.Operators{
		Version: 1, Issued: time.Now().UTC(), Fleet: rig.Name, People: []policy.Person{{Name: "olga", Keys: []string{public.String()}}},
		Verbs: map[string]policy.Grant{"ping": {People: []string{"olga"}, Threshold: 1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(w.fleet.Trust(), policy.OperatorsFile), string(data))
	return key
}

func (w *world) command(t *testing.T, key ed25519.PrivateKey, id, verb string) wire.Envelope {
	t.Helper()
	message, err := json.Marshal(wire.Command{
		Version: 1, Fleet: rig.Name, Devices: []string{id}, ID: "0123456789abcdef", Verb: verb,
		NotBefore: time.Now().Add(-time.Minute).UTC(), Expires: time.Now().Add(time.Hour).UTC(), Reason: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	signature, err := sshsig.Sign(key, message, wire.CommandNamespace)
	if err != nil {
		t.Fatal(err)
	}
	return wire.Envelope{Command: message, Signatures: []string{string(signature)}}
}

// sent returns when the device's receipt was taken in, whose signature the fleet
// verified.
func (w *world) sent(t *testing.T, e wire.Envelope, id string) {
	t.Helper()
	if _, err := w.fleet.API.Command(t.Context(), id, e); err != nil {
		t.Fatal(err)
	}
	err := rig.Await(t.Context(), "receipt", func() error {
		d, err := w.fleet.API.Device(t.Context(), id)
		if err == nil && (len(d.Commands) == 0 || len(d.Commands[0].Receipts) == 0) {
			err = errors.New("no receipt yet")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestSoftwareKeysAreAnExplicitChoice: without the setting a machine without a TPM is
// told what to do; with it, whatever looks like a TPM keeps it from being used.
func TestSoftwareKeysAreAnExplicitChoice(t *testing.T) {
	w := bareWorld(t)
	for name, c := range map[string]struct {
		change func(*agent.Settings)
		want   string
	}{
		"not allowed": {func(s *agent.Settings) { s.Identity.AllowSoftwareKeys = false }, "`identity.allow_software_keys` does without"},
		"a TPM that nobody serves": {func(s *agent.Settings) {
			socket := filepath.Join(shortDir(t), "tpm")
			l, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			l.(*net.UnixListener).SetUnlinkOnClose(false)
			l.Close()
			s.TPM = "unix:" + socket
		}, "is the TPM emulator running?"},
		"a TPM that is shut": {func(s *agent.Settings) { s.TPM = "/dev/null/tpm" }, "open TPM"},
	} {
		s := w.gateway.Settings
		s.State = filepath.Join(shortDir(t), "state")
		c.change(&s)
		a, err := agent.New(t.Context(), s, build(), rig.Quiet())
		if err == nil {
			a.Close()
			t.Errorf("%s: it started as %s", name, a.Device())
			continue
		}
		if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "\nhint: ") {
			t.Errorf("%s: error %q does not say %q", name, err, c.want)
		}
		if _, err := os.Lstat(filepath.Join(s.State, "identity", "first.pem")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: a first key was made: %v", name, err)
		}
	}
}
