package identity

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/gatewarden/gatewarden/fleet"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// TestMachineWithTheMakersAttestationKeyNeedsNoEKCertificate: its maker vouches for the
// TPM, so that an operator need not accept an unknown EK. A certificate that does not
// say that the key is restricted, as an IDevID's, vouches for nothing, and keeps nobody
// from being let in by hand.
func TestMachineWithTheMakersAttestationKeyNeedsNoEKCertificate(t *testing.T) {
	t.Parallel()
	maker := tpmtest.NewMaker(t)
	roots := t.TempDir()
	if err := os.WriteFile(filepath.Join(roots, "machines.pem"), maker.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(s *fleet.Settings) { s.EKRoots = roots })
	for name, c := range map[string]struct {
		policies []uint64
		genuine  bool
	}{"an IAK": {[]uint64{1, 2, 3}, true}, "no more than an IDevID": {[]uint64{1, 2}, false}} {
		g := w.gateway()
		maker.IAK(t, g.power, c.policies...)
		i := g.start()
		ended := make(chan error, 1)
		go func() { _, err := i.step(t.Context(), ""); ended <- err }()
		until(t, name+": the device waits for a person", func() bool {
			d, err := w.api.Device(t.Context(), i.Device())
			return err == nil && d.State == registry.Pending && !d.EKVerified && (d.Machine != "") == c.genuine
		})
		if c.genuine {
			until(t, name+": it is approved without --accept-ek", func() bool { return w.api.Approve(t.Context(), i.Device(), approval(false)) == nil })
		} else {
			if w.api.Approve(t.Context(), i.Device(), approval(false)) == nil {
				t.Error(name + ": approved without --accept-ek")
			}
			g.approve(i.Device())
		}
		w.must(<-ended)
		if serial(i) == "" || i.prove(t.Context(), i.current) != nil {
			t.Errorf("%s: the certificate is no good", name)
		}
	}
}
