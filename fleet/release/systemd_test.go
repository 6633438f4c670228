package release_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy/sigfile"
)

// systemd-cryptsetup looks for an entry with its PCRs and key, whose policy is that of
// this boot, and has the chip verify the signature over that alone.
func TestSystemdFindsASignatureForEachBootOfTheUKI(t *testing.T) {
	a := newAuthor(t)
	o := a.options("1.0.0", 1)
	if _, err := a.repo.SystemdSignatures("edge", o.UKI, o.Loader, nil); err == nil || !strings.Contains(err.Error(), "pcr-edge-2.pem") {
		t.Errorf("without an RSA key: %v", err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(a.dir, "keys", "pcr-edge-2.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	must(t, a.repo.RotatePolicyKey("edge"))
	data, err := a.repo.SystemdSignatures("edge", o.UKI, o.Loader, []string{"", "enter-initrd", "sysinit:ready"})
	must(t, err)
	list, err := sigfile.Parse(data)
	must(t, err)
	if len(list) != 6 {
		t.Errorf("%d signatures for three phases, each with and without Secure Boot", len(list))
	}
	m := &machine{t: t}
	for _, secure := range []bool{true, false} {
		for _, phases := range [][]string{nil, {"enter-initrd"}, {"sysinit", "ready"}, {"enter-initrd", "leave-initrd"}} {
			b := a.bootOf("1.0.0")
			b.SecureBoot = secure
			m.boot(b, phases...)
			if found, want := m.signedFor(key, list), len(phases) < 2 || phases[1] == "ready"; found != want {
				t.Errorf("Secure Boot %t, %v: found %t", secure, phases, found)
			}
		}
	}
	m.boot(a.bootOf("6.6.6"), "enter-initrd")
	if m.signedFor(key, list) {
		t.Error("another UKI has a signature")
	}
	for _, path := range []string{"sysinit:ready:shutdown", "x"} {
		if _, err := a.repo.SystemdSignatures("edge", o.UKI, o.Loader, []string{path}); err == nil {
			t.Errorf("phase path %q was signed", path)
		}
	}
}

// signedFor looks as systemd does.
func (m *machine) signedFor(key *rsa.PrivateKey, list []tpmpolicy.Signed) bool {
	m.t.Helper()
	now, err := m.chip.ReadPCRs(m.t.Context(), []int{11, 12, 13})
	must(m.t, err)
	values := make(map[int]tpmpolicy.Digest)
	for pcr, value := range now {
		values[pcr] = value
	}
	policy, err := tpmpolicy.Digest{}.PCR(values)
	must(m.t, err)
	for _, s := range list {
		if s.Policy == policy {
			must(m.t, s.Verify(key.Public(), nil))
			return true
		}
	}
	return false
}

// A release without PCR policies still tells what its boot measures.
func TestReleaseWithoutPCRPoliciesTellsOfItsBoot(t *testing.T) {
	a := newAuthor(t)
	o := a.options("1.0.0", 1)
	o.Unsigned = true
	built, err := a.repo.Build(t.Context(), o)
	must(t, err)
	list, err := a.repo.List()
	must(t, err)
	if built.PCRPolicies != 0 || len(list) != 1 || len(list[0].PCRPolicies) != 0 {
		t.Fatalf("%d PCR policies were signed, %d releases", built.PCRPolicies, len(list))
	}
	var r attest.Release
	must(t, json.Unmarshal(list[0].Reference, &r))
	got, ok := r.Boot()
	if want := a.bootOf("1.0.0"); !ok || !maps.Equal(got.PCRs(nil), want.PCRs(nil)) {
		t.Errorf("its reference values tell of %+v, want %+v", got, want)
	}
	a.sign()
	a.publish()
}
