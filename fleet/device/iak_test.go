package device_test

import (
	"crypto/x509"
	"slices"
	"testing"

	"github.com/gatewarden/gatewarden/fleet/device"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// TestMachineVouchesForOneDevice: software on it can make up any number of endorsement
// keys, and have its maker's key state that one AK is beside it.
func TestMachineVouchesForOneDevice(t *testing.T) {
	t.Parallel()
	maker := tpmtest.NewMaker(t)
	makers := x509.NewCertPool()
	makers.AppendCertsFromPEM(maker.PEM())
	w := newWorld(t, func(c *device.Config) { c.EKRoots = makers })
	_, power := tpmtest.Start(t)
	certificate := maker.IAK(t, power, 1, 2, 3)
	b := w.boxOn(power)
	enrol := func() registry.Device {
		t.Helper()
		ask := b.ask(b.key())
		word := wire.IAK{Certificate: certificate}
		var err error
		word.Certify, word.Signature, err = b.tpm.CertifyBy(t.Context(), uint32(tpmtest.IAKHandle), b.ak, wire.IAKQualifyingData(fleetID, b.ek.Name))
		w.must(err)
		ask.IAK = &word
		w.ok(call{path: wire.PathEnroll, body: ask}, nil)
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
