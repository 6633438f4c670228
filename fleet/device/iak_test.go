package device_test

import (
	"crypto/x509"
	"net/http"
	"slices"
	"testing"

	"github.com/gatewarden/gatewarden/fleet/device"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// machine is a gateway whose maker put an IAK into its TPM, and a fleet that knows the
// maker.
func machine(t *testing.T) (*world, *box) {
	t.Helper()
	maker := tpmtest.NewMaker(t)
	makers := x509.NewCertPool()
	makers.AppendCertsFromPEM(maker.PEM())
	w := newWorld(t, func(c *device.Config) { c.EKRoots = makers })
	_, power := tpmtest.Start(t)
	iak := maker.IAK(t, power, 1, 2, 3) // before the gateway is here
	b := w.boxOn(power)
	b.iak = iak
	return w, b
}

// TestMachineVouchesForOneDevice: software on it can make up any number of endorsement
// keys, and have its maker's key state that one AK is beside it.
func TestMachineVouchesForOneDevice(t *testing.T) {
	t.Parallel()
	w, b := machine(t)
	enrol := func() registry.Device {
		t.Helper()
		w.ok(call{path: wire.PathEnroll, body: b.ask(b.key())}, nil)
		d, err := w.store.Device(t.Context(), b.id)
		w.must(err)
		return d
	}
	if first := enrol(); !first.Genuine() || first.EKVerified {
		t.Errorf("the first: %+v", first)
	}
	if again := enrol(); !again.Genuine() {
		t.Errorf("the same again: %+v", again)
	}
	var err error
	b.ek, err = b.tpm.EK(t.Context(), "ecc-p256")
	w.must(err)
	b.id = wire.DeviceID(fleetID, b.ek.Name)
	if second := enrol(); second.Genuine() {
		t.Errorf("another EK on the same machine: %+v", second)
	}
	events, err := w.store.Events(t.Context(), b.id, 0, 10)
	w.must(err)
	if !slices.ContainsFunc(events, func(e registry.Event) bool { return e.Kind == "machine.conflict" && e.Severity == registry.Alarm }) {
		t.Errorf("nobody is told: %+v", events)
	}
}

// TestMachineVouchesForTheKeyThatItCertifiedAlone: an endorsement key that software made
// up opens a ticket for any attestation key, one that no chip holds, too.
func TestMachineVouchesForTheKeyThatItCertifiedAlone(t *testing.T) {
	t.Parallel()
	w, b := machine(t)
	certificate := b.iak
	for i, c := range []struct {
		iak     []byte
		genuine bool
	}{{certificate, true}, {nil, false}, {certificate, true}} {
		b.newAK()
		b.iak = c.iak
		if a := w.do(b.ticket().simpleEnroll()); a.status != http.StatusAccepted {
			t.Fatalf("key %d: %d %s", i, a.status, a.body)
		}
		if d, err := w.store.Device(t.Context(), b.id); err != nil || d.Genuine() != c.genuine {
			t.Errorf("key %d: vouched for is %v, %v", i, d.Genuine(), err)
		}
	}
}

// TestAllowListLetsInTheMachineThatItNamesOnce, and not without its maker's word.
func TestAllowListLetsInTheMachineThatItNamesOnce(t *testing.T) {
	t.Parallel()
	w, b := machine(t)
	certificate := b.iak
	b.iak = nil
	leaf, err := x509.ParseCertificate(certificate)
	w.must(err)
	w.must(w.store.AddAllowed(t.Context(), registry.Allowed{Kind: registry.AllowIAK, Value: spkiOf(t, leaf.PublicKey), By: "olga", Created: w.now()}))
	silent := b.ticket()
	b.attest(silent.call, spkiOf(t, silent.key.Public()))
	if a := w.do(silent.simpleEnroll()); a.status != http.StatusAccepted {
		t.Errorf("without the maker's word: %d %s", a.status, a.body)
	}
	b.iak = certificate
	b.newAK()
	b.comesIn()
	if d, err := w.store.Device(t.Context(), b.id); err != nil || d.ApprovedBy != "olga" {
		t.Errorf("device %+v, %v", d, err)
	}
	if e, err := w.store.Allowed(t.Context(), registry.AllowIAK, spkiOf(t, leaf.PublicKey)); err != nil || e.Device != b.id {
		t.Errorf("the entry admitted %q, %v", e.Device, err)
	}
}
