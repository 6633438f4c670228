package packaging_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/agent/secret"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/counter"
	"github.com/gatewarden/gatewarden/tpm/seal"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
	"github.com/gatewarden/gatewarden/update/release"
)

// unitsGetSecrets has the machine's systemd load what was sealed for its units,
// while the agent stands still.
func unitsGetSecrets(power *tpmtest.Power) func(*machine) {
	return func(m *machine) {
		state := filepath.Join(m.root, "var/lib/gatewarden")
		sealFor(m.t, power, state, map[string]string{"key": "app@one.service", "bare": ""})
		m.run("chown", "-R", "gatewarden:gatewarden", "/var/lib/gatewarden")
		m.run("systemctl", "stop", "gatewarden")
		if out, err := m.load("app@one.service", "key"); err != nil || out != "secret of app@one.service" {
			m.t.Errorf("the unit gets %q, %v", out, err)
		}
		// 243 is EXIT_CREDENTIALS: the program was not started.
		for _, no := range []struct{ unit, name, why string }{
			{"app@two.service", "key", "it is not for this unit"}, {"app@one.service", "bare", "it was sealed without --unit"}, {"app@one.service", "none", "no such secret"},
		} {
			out, err := m.load(no.unit, no.name)
			if err == nil || !strings.Contains(err.Error(), "243") || strings.Contains(out, "secret of") {
				m.t.Errorf("%s asks for %s: %q, %v", no.unit, no.name, out, err)
			}
			m.expect(no.why, "journalctl", "--no-pager", "-u", "gatewarden-credentials")
		}
		if journal := m.run("journalctl", "--no-pager", "-u", "gatewarden-credentials"); strings.Contains(journal, "secret of") || !strings.Contains(journal, "the file system is closed") {
			m.t.Errorf("the journal says:\n%s", journal)
		}
		if failed := m.run("systemctl", "--failed", "--no-legend"); failed != "" {
			m.t.Errorf("failed: %s", failed)
		}
		m.run("systemctl", "start", "gatewarden")
		m.trusted()
	}
}

// load starts a unit that prints its credential.
func (m *machine) load(unit, name string) (string, error) {
	return m.try("systemd-run", "--quiet", "--wait", "--collect", "--pipe", "--unit="+unit,
		"--property=LoadCredential="+name+":/run/gatewarden/credentials.sock", "sh", "-c", "cat $$CREDENTIALS_DIRECTORY/"+name)
}

// sealFor seals secrets to what the machine booted, as its agent would if it had the
// owner's repository: name to unit.
func sealFor(t *testing.T, power *tpmtest.Power, state string, units map[string]string) {
	t.Helper()
	chip, err := tpm.Open(t.Context(), "unix:"+power.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer chip.Close()
	var keys [2]*ecdsa.PrivateKey // of the PCR policies, and of the counter
	for i := range keys {
		if keys[i], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	policy := seal.Policy{Ref: tpmpolicy.Ref{Product: "edge", Channel: "stable", Epoch: 1, PCRs: []int{4, 11, 12, 13}}, Key: keys[0].Public()}
	err = chip.Do(t.Context(), "make counter", func(c *tpm.Chip) error {
		record, err := counter.Define(c, keys[1], counter.Index, nil)
		policy.Counter = seal.Counter{Index: record.Index, Name: record.Name(), Value: record.Initial}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	approved := approve(t, chip, keys[0], policy.Ref)
	if err := os.MkdirAll(filepath.Join(state, "update"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := (&fsx.FS{}).WriteJSON(filepath.Join(state, "update", "running.json"), approved, 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := secret.New(secret.Config{
		FS: &fsx.FS{}, Dir: filepath.Join(state, "secrets"), TPM: chip, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Policy: func(context.Context) (seal.Policy, error) { return policy, nil },
		Signed: func(context.Context) ([]tpmpolicy.Signed, error) {
			return secret.Signed(approved), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, unit := range units {
		if err := store.Put(t.Context(), name, secret.Terms{Unit: unit}, []byte("secret of "+unit)); err != nil {
			t.Fatal(err)
		}
	}
}

// approve is a release whose owner signed what the chip holds now.
func approve(t *testing.T, chip *tpm.TPM, key *ecdsa.PrivateKey, ref tpmpolicy.Ref) *release.Release {
	t.Helper()
	now, err := chip.ReadPCRs(t.Context(), ref.PCRs)
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[int]tpmpolicy.Digest)
	for pcr, value := range now {
		values[pcr] = value
	}
	s, err := tpmpolicy.Approve(key, ref, values)
	if err != nil {
		t.Fatal(err)
	}
	r := &release.Release{
		Format: 1, Product: ref.Product, Channel: ref.Channel, Version: "1.0.0", Epoch: ref.Epoch, Hardware: []string{"rig"},
		Images:  []release.Image{{Slot: "rootfs", Name: "edge/1.0.0/rootfs.img", Size: 1, SHA256: release.Digest{1}, Index: "edge/1.0.0/rootfs.caibx"}},
		Confirm: release.Confirm{Checks: []release.Criterion{}, Timeout: 60},
		PCRPolicies: []release.PCRPolicy{{
			Epoch: ref.Epoch, Phases: "sysinit:ready", PCRs: s.PCRs, Key: release.Digest(s.Key), Policy: release.Digest(s.Policy), Signature: s.Signature,
		}},
	}
	data, err := json.Marshal(r)
	if err == nil {
		_, err = release.Parse(data)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}
