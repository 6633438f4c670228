package identity

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

func TestGenuineTPMEnrolsAfterAnOperatorApproved(t *testing.T) {
	t.Parallel()
	machine, power := tpmtest.StartManufactured(t)
	makers, err := machine.CACertificates()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(s *fleet.Settings) {
		s.EKRoots = filepath.Join(filepath.Dir(s.State), "makers")
		if err := errors.Join(os.Mkdir(s.EKRoots, 0o700), os.WriteFile(filepath.Join(s.EKRoots, "m.pem"), makers, 0o600)); err != nil {
			t.Fatal(err)
		}
	})
	g := w.gatewayOn(power)
	i := g.start()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- i.Run(ctx) }()
	until(t, "the device waits for approval", func() bool { phase, _ := i.Status(); return strings.Contains(phase, "approve") })
	if _, ok := i.Current(); ok {
		t.Fatal("there is a certificate before anybody approved")
	}
	w.must(w.api.Approve(t.Context(), i.Device(), approval(false)))
	until(t, "the device has its certificate", func() bool { _, ok := i.Current(); return ok })
	c, _ := i.Current()
	if c.Identity != i.Device() || time.Until(c.Leaf().NotAfter) < 6*24*time.Hour {
		t.Errorf("certificate for %s until %s, want a full one for %s", c.Identity, c.Leaf().NotAfter, i.Device())
	}
	until(t, "the identity is idle", func() bool { phase, last := i.Status(); return phase == "idle" && last == nil })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Run ended with %v", err)
	}
	w.stop()
	if again := g.start(); serial(again) != c.Serial() {
		t.Errorf("after a restart without a fleet the credential is %q, want %s", serial(again), c.Serial())
	}
}

func TestRenewalReplacesKeyAndCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g, i := w.enrolled()
	before, _ := i.Current()
	w.must(i.Rotate(t.Context()))
	after, _ := i.Current()
	if after.Serial() == before.Serial() || after.SPKI() == before.SPKI() {
		t.Error("key or certificate is the old one")
	}
	if got := g.changed; len(got) != 2 || got[1] != after.Serial() {
		t.Errorf("told of %v, want %s last", got, after.Serial())
	}
	if _, err := os.Stat(filepath.Join(g.dir, nextFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("leftovers of the renewal: %v", err)
	}
	// The key before must still sign: a handshake with it may be under way.
	if _, err := before.Key.Sign(nil, make([]byte, 32), crypto.SHA256); err != nil {
		t.Errorf("the key before this one is gone at once: %v", err)
	}
	w.must(i.Rotate(t.Context()))
	if again := g.start(); serial(again) != serial(i) {
		t.Error("a restart does not find the newest credential")
	}
}

// Hardware signs in 200 to 600 ms: a renewal signs the quote, the request, the certified
// key and at most two handshakes. The rest makes the key and reads PCRs (BUDGETS 4).
func TestRenewalCostsAtMost9Commands(t *testing.T) {
	t.Parallel()
	g, i := newWorld(t, nil).enrolled()
	g.must(i.Rotate(t.Context())) // from here on each retires a key
	before := g.tpm.Commands()
	g.must(i.Rotate(t.Context()))
	n := g.tpm.Commands() - before
	t.Logf("%d commands", n)
	if n < 5 || n > 9 {
		t.Errorf("%d commands", n)
	}
}

// The broker refuses the old certificate until the new one is in use: that is no
// reason to renew the new one.
func TestKickBeforeTheNewCertificateIsAnsweredByIt(t *testing.T) {
	t.Parallel()
	g, i := newWorld(t, nil).enrolled()
	i.Kick("the broker refuses this identity")
	g.step(i, "the certificate has expired")
	if len(i.kick) != 0 {
		t.Errorf("another certificate is wanted because %s", <-i.kick)
	}
}

func TestExpiredCertificateRecoversByItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g, i := w.enrolled()
	old, _ := i.Current()
	g.pass(old.Leaf().NotAfter.Add(time.Second))
	i = g.start()
	g.step(i, "")
	again, _ := i.Current()
	if again.Serial() == old.Serial() || again.Identity != i.Device() {
		t.Errorf("the device holds %s of %s, want a new certificate", again.Serial(), again.Identity)
	}
	g.pass(again.Leaf().NotAfter.Add(time.Second))
	w.must(i.Rotate(t.Context())) // a person who can't wait for that
	if c, _ := i.Current(); c.Serial() == again.Serial() {
		t.Error("renewing by hand does not recover")
	}
}

func TestLostOrDamagedCredentialIsMadeAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g, i := w.enrolled()
	path := filepath.Join(g.dir, currentFile)
	good, err := os.ReadFile(path)
	w.must(err)
	certificate := bytes.Index(good, []byte("-----BEGIN CERTIFICATE"))
	flipped := bytes.Clone(good)
	flipped[bytes.Index(good, []byte("\n\n"))+1+len(good)/8] ^= 0x20
	for name, damaged := range map[string][]byte{
		"lost": nil, "empty": {}, "zeroed": make([]byte, len(good)), "key only": good[:certificate], "cut in the certificate": good[:certificate+200],
		"cut in the key": good[:certificate/2], "bit flipped in the key": flipped, "certificate only": good[certificate:],
		"too large": bytes.Repeat(good, 100),
	} {
		t.Run(name, func(t *testing.T) {
			if damaged == nil {
				w.must(os.Remove(path))
			} else {
				w.must(os.WriteFile(path, damaged, 0o600))
			}
			old := serial(i)
			i = g.start()
			g.step(i, "")
			if serial(i) == "" || serial(i) == old {
				t.Errorf("the credential is %q", serial(i))
			}
			if again := g.start(); serial(again) != serial(i) {
				t.Error("the new credential is not on disk")
			}
		})
	}
}

func TestDamagedAttestationKeyWaitsForAnOperatorAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g, i := w.enrolled()
	old := serial(i)
	w.must(os.WriteFile(filepath.Join(g.dir, akFile), []byte("-----BEGIN TSS2 PRIVATE KEY-----\nAAAA\n"), 0o600))
	i = g.start()
	if !g.saw("identity.ak-lost") {
		t.Error("nobody is told that the attestation key is lost")
	}
	done := make(chan error, 1)
	go func() { _, err := i.step(t.Context(), "test"); done <- err }()
	until(t, "the device is pending again", func() bool {
		d, err := w.api.Device(t.Context(), i.Device())
		return err == nil && d.State == registry.Pending
	})
	c, err := w.server.Store().Certificate(t.Context(), old)
	if err != nil || c.RevokedAt.IsZero() {
		t.Errorf("the certificate of before is good while the device waits: %+v, %v", c.RevokedAt, err)
	}
	g.approve(i.Device())
	w.must(<-done)
	if serial(i) == old || serial(i) == "" {
		t.Errorf("the credential is %q", serial(i))
	}
}

// A cut at a durable step must leave a device that comes back without a person.
func TestPowerCutAtEveryDurableStepNeverStrands(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g, i := w.enrolled()
	for _, c := range []struct{ name, why string }{{"renewal", "test"}, {"recovery", ""}} {
		t.Run(c.name, func(t *testing.T) {
			for cut := 1; ; cut++ {
				if c.name == "recovery" {
					w.must(os.Remove(filepath.Join(g.dir, currentFile)))
					i = g.start()
				}
				reached := g.cutAt(i, cut, c.why)
				i = g.start()
				if c.name == "renewal" && serial(i) == "" {
					t.Fatalf("after a cut at step %d of a renewal there is no credential", cut)
				}
				g.step(i, "")
				if serial(i) == "" {
					t.Fatalf("after a cut at step %d there is no credential", cut)
				}
				if err := i.prove(t.Context(), i.current); err != nil {
					t.Fatalf("after a cut at step %d the credential is no good: %v", cut, err)
				}
				if !reached {
					if cut < 15 {
						t.Fatalf("only %d durable steps were seen", cut-1)
					}
					return
				}
			}
		})
	}
}

// cutAt ends everything at the nth durable operation, and reports whether there
// was one.
func (g *gateway) cutAt(i *Identity, n int, why string) (reached bool) {
	g.Helper()
	count := 0
	g.fs.Hook = func(string, string) error {
		if count++; count == n {
			reached = true
			runtime.Goexit()
		}
		return nil
	}
	done := make(chan error, 1)
	go func() {
		var err error
		defer func() { done <- err }()
		_, err = i.step(g.Context(), why)
	}()
	g.must(<-done)
	g.fs.Hook = nil
	return reached
}

func TestFullDiskDoesNotShutADeviceOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g, i := w.enrolled()
	old := serial(i)
	g.fs.Hook = func(string, string) error { return syscall.ENOSPC }
	w.must(i.Rotate(t.Context()))
	if serial(i) == old {
		t.Error("the renewal did not happen")
	}
	if !g.saw("identity.not-stored") {
		t.Error("nobody is told that the credential is in memory only")
	}
	g.fs.Hook = nil
	i = g.start()
	g.step(i, "test")
	if serial(i) == "" || serial(i) == old {
		t.Errorf("after a restart the credential is %q", serial(i))
	}
}

func TestReceiptIsSignedByTheKeyOfTheNamedCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	_, i := w.enrolled()
	r, err := i.SignPayload([]byte(`{"v":1}`))
	w.must(err)
	c, _ := i.Current()
	if r.Serial != c.Serial() {
		t.Errorf("serial %s, want %s", r.Serial, c.Serial())
	}
	if err := c.Leaf().CheckSignature(x509.ECDSAWithSHA256, wire.ReceiptBytes(r.Payload), r.Signature); err != nil {
		t.Errorf("signature: %v", err)
	}
}

func TestCertificateThatFailsItsHandshakeReplacesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g, i := w.enrolled()
	old := serial(i)
	creates := 0
	g.fs.Hook = func(op, path string) error {
		if op == fsx.OpCreate && strings.Contains(path, nextFile) {
			if creates++; creates == 2 { // the pair is whole: the fleet changes its mind
				_, err := w.server.Store().RevokeCertificates(t.Context(), i.Device(), old, "test", time.Now())
				return err
			}
		}
		return nil
	}
	if err := i.renew(t.Context(), "test"); err == nil || !strings.Contains(err.Error(), "prove the new certificate") {
		t.Fatalf("error %v", err)
	}
	g.fs.Hook = nil
	if serial(i) != old {
		t.Error("a certificate that the fleet refuses is in use")
	}
	if i = g.start(); serial(i) != old {
		t.Errorf("after a restart %s is in use, want %s", serial(i), old)
	}
	g.step(i, "test")
	if serial(i) == old || serial(i) == "" {
		t.Errorf("afterwards the credential is %q", serial(i))
	}
}

// A ticket resumes the identity that it was issued to: none is kept across a renewal.
func TestTicketsEndWithTheirCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	_, i := w.enrolled()
	resumed := func() bool {
		config, _, err := i.TLS()
		w.must(err)
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
		resp, err := client.Get(w.settings.Public.API[0] + wire.PathCACerts)
		w.must(err)
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		w.must(err)
		return resp.TLS.DidResume
	}
	for range 2 {
		if resumed() {
			t.Error("the first connection of a certificate resumes another's")
		}
		if !resumed() {
			t.Error("the second connection does not resume: this proves little")
		}
		w.must(i.Rotate(t.Context()))
	}
}
