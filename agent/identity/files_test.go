package identity

import (
	"bytes"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/operator"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// bare is a machine without a TPM.
func (w *world) bare() *gateway {
	w.Helper()
	dir, err := os.MkdirTemp(w.dir, "bare")
	w.must(err)
	return &gateway{
		world: w, dir: filepath.Join(dir, "identity"), log: os.DevNull, fs: &fsx.FS{},
		clock: &fakeClock{trusted: true, floor: time.Now().AddDate(0, -1, 0)}, fleet: w.trust(),
	}
}

// checkModes checks that every file with a key is the user's alone.
func (g *gateway) checkModes() {
	g.Helper()
	for _, name := range []string{".", firstFile, currentFile} {
		if err := checkPrivate(filepath.Join(g.dir, name)); err != nil {
			g.Error(err)
		}
	}
}

func TestGatewayWithoutTPMEnrolsRenewsAndRecoversByItsFirstKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g := w.bare()
	i := g.enrol()
	g.checkModes()
	first, _ := i.Current()
	if v := g.verdicts[len(g.verdicts)-1]; v.Grade != "degraded" || v.Gate != wire.GateShort || !strings.Contains(v.Explanation[0], "software keys") {
		t.Errorf("verdict %+v", v)
	}
	w.must(i.Rotate(t.Context()))
	second, _ := i.Current()
	if second.SPKI() == first.SPKI() || second.Identity != i.Device() {
		t.Error("renewed with the old key")
	}
	if again := g.start(); serial(again) != second.Serial() || again.Device() != i.Device() {
		t.Errorf("a restart finds %s of %s", serial(again), again.Device())
	}
	g.pass(second.Leaf().NotAfter.Add(time.Second))
	again := g.start()
	g.step(again, "")
	if c, _ := again.Current(); c.Serial() == second.Serial() || c.Identity != i.Device() {
		t.Errorf("after it expired: %s of %s", c.Serial(), c.Identity)
	}
	if why := again.Record().Why; !strings.Contains(why, "recovered by its first key") {
		t.Errorf("asked for: %q", why)
	}
	g.checkModes()
}

func TestTokenLetsInAGatewayWithoutTPM(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	token, err := w.api.NewToken(t.Context(), operator.NewToken{By: "olga", Seconds: 60, AcceptSoftware: true})
	w.must(err)
	g := w.bare()
	i := g.start()
	w.must(i.UseToken(token.Text))
	g.step(i, "")
	d, err := w.api.Device(t.Context(), i.Device())
	if err != nil || serial(i) == "" || d.State != "active" || d.Keys != "software" {
		t.Errorf("%+v, %v", d.Device, err)
	}
}

// TestTPMThatIsGoneNeverTurnsIntoSoftwareKeys, whatever is left of what was made
// with it; and nothing is made.
func TestTPMThatIsGoneNeverTurnsIntoSoftwareKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g := w.gateway()
	g.start()
	power := g.power
	g.power = nil
	for name, damage := range map[string]func(){
		"whole":      func() {},
		"damaged EK": func() { w.must(os.WriteFile(filepath.Join(g.dir, ekFile), nil, 0o600)) },
		"without AK": func() { w.must(os.RemoveAll(filepath.Join(g.dir, akFile))) },
		"EK is a link": func() {
			w.must(os.RemoveAll(filepath.Join(g.dir, ekFile)))
			w.must(os.Symlink("nowhere", filepath.Join(g.dir, ekFile)))
		},
		"whole with AK": func() { w.must(os.WriteFile(filepath.Join(g.dir, akFile), nil, 0o600)) },
	} {
		damage()
		if i, err := g.tryStart(); !errors.Is(err, errHadTPM) || !strings.Contains(err.Error(), "\nhint: ") {
			t.Errorf("%s: started as %v, %v", name, i, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(g.dir, firstFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a first key was made: %v", err)
	}
	// A machine that gets its first TPM uses it, as another device, and for good.
	g = w.bare()
	bare := g.start().Device()
	g.power = power
	if i := g.start(); i.Device() == bare || i.First() != nil || !g.saw("identity.tpm-found") {
		t.Errorf("with a TPM it still is %s; events %q", i.Device(), g.events)
	}
	g.power = nil
	if _, err := g.tryStart(); !errors.Is(err, errHadTPM) {
		t.Errorf("back without: %v", err)
	}
}

// TestPrivateKeyThatOthersCouldHaveIsRefused: the first key stops the agent with a
// sentence, the operational key is replaced.
func TestPrivateKeyThatOthersCouldHaveIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g := w.bare()
	i := g.enrol()
	for name, expose := range exposures(t) {
		for _, file := range []string{firstFile, currentFile} {
			before := serial(i)
			path := filepath.Join(g.dir, file)
			undo := expose(path)
			again, err := g.tryStart()
			if file == firstFile {
				if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "\nhint: ") {
					t.Errorf("%s: first key: %v", name, err)
				}
				undo()
				continue
			}
			w.must(err)
			if serial(again) != "" || !g.saw("identity.credential-lost") {
				t.Errorf("%s: the credential is in use: %s", name, serial(again))
			}
			g.step(again, "")
			if i = again; serial(i) == "" || serial(i) == before || i.prove(t.Context(), i.current) != nil {
				t.Errorf("%s: not replaced: %q", name, serial(i))
			}
			g.checkModes()
		}
	}
	w.must(os.Chmod(g.dir, 0o750))
	if _, err := g.tryStart(); err == nil || !strings.Contains(err.Error(), g.dir) {
		t.Errorf("folder open to the group: %v", err)
	}
	w.must(os.Chmod(g.dir, 0o700))
	if i := g.start(); serial(i) == "" {
		t.Error("it does not come back when all is right again")
	}
}

// exposures are ways in which others could have a key; each returns its undoing.
func exposures(t *testing.T) map[string]func(path string) func() {
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	mode := func(m os.FileMode) func(string) func() {
		return func(path string) func() {
			must(os.Chmod(path, m))
			return func() { must(os.Chmod(path, 0o600)) }
		}
	}
	all := map[string]func(string) func(){
		"group may read": mode(0o640), "all may read": mode(0o604), "group may write": mode(0o620),
		"a link": func(path string) func() {
			must(os.Rename(path, path+".moved"))
			must(os.Symlink(path+".moved", path))
			return func() { must(os.Rename(path+".moved", path)) }
		},
		"a pipe": func(path string) func() {
			must(os.Rename(path, path+".moved"))
			must(syscall.Mkfifo(path, 0o600))
			return func() { must(os.Rename(path+".moved", path)) }
		},
	}
	if os.Geteuid() == 0 {
		all["another owner"] = func(path string) func() {
			must(os.Chown(path, 12345, -1))
			return func() { must(os.Chown(path, 0, -1)) }
		}
	}
	return all
}

// TestFirstKeyThatIsLostMakesAnotherDeviceThatWaits: no key that can be read may be
// replaced, none that can't be keeps the device from its fleet.
func TestFirstKeyThatIsLostMakesAnotherDeviceThatWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g := w.bare()
	i := g.enrol()
	path := filepath.Join(g.dir, firstFile)
	good, err := os.ReadFile(path)
	w.must(err)
	known := []string{i.Device()}
	for name, damage := range map[string][]byte{
		"lost": nil, "empty": {}, "zeroed": make([]byte, len(good)), "cut": good[:len(good)/2], "cut at the end": good[:len(good)-30],
		"of another kind": []byte("-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n"), "too large": bytes.Repeat(good, 1000),
	} {
		g.events = nil
		w.must(os.WriteFile(path, damage, 0o600))
		if damage == nil {
			w.must(os.Remove(path))
		}
		i = g.start()
		if slices.Contains(known, i.Device()) || serial(i) != "" || !g.saw("identity.first-key-lost") {
			t.Errorf("%s: it is %s with certificate %q; events %q", name, i.Device(), serial(i), g.events)
		}
		known = append(known, i.Device())
	}
	done := make(chan error, 1)
	go func() { _, err := i.step(t.Context(), ""); done <- err }()
	g.approve(i.Device())
	w.must(<-done)
	w.must(os.WriteFile(path, good, 0o600))
	if i = g.start(); i.Device() != known[0] {
		t.Errorf("with its first key again it is %s, not %s", i.Device(), known[0])
	}
}

func TestPowerCutAtEveryStepNeverStrandsAGatewayWithoutTPM(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g := w.bare()
	i := g.enrol()
	id := i.Device()
	for _, why := range []string{"test", ""} {
		for cut := 1; ; cut++ {
			if why == "" { // recovery
				w.must(os.Remove(filepath.Join(g.dir, currentFile)))
				i = g.start()
			}
			reached := g.cutAt(i, cut, why)
			i = g.start()
			g.step(i, "")
			if serial(i) == "" || i.Device() != id || i.prove(t.Context(), i.current) != nil {
				t.Fatalf("after a cut at step %d (%q) it is %s with %q", cut, why, i.Device(), serial(i))
			}
			if cut%8 == 0 { // the limit of enrolments from one address begins anew
				w.stop()
				w.serve()
			}
			if !reached {
				if cut < 15 {
					t.Fatalf("only %d durable steps were seen", cut-1)
				}
				break
			}
		}
	}
	g.checkModes()
}

// TestPowerCutInAFirstStartLeavesOneFirstKey: each step of the first start without a
// TPM may be the last one.
func TestPowerCutInAFirstStartLeavesOneFirstKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for cut := 1; ; cut++ {
		g, count := w.bare(), 0
		g.fs.Hook = func(string, string) error {
			if count++; count >= cut {
				return errPower
			}
			return nil
		}
		used := ""
		if i, err := g.tryStart(); err == nil {
			used = i.Device()
		} else if !errors.Is(err, errPower) {
			t.Fatal(err)
		}
		g.fs.Hook = nil
		i := g.start()
		if again := g.start(); again.Device() != i.Device() || used != "" && used != i.Device() {
			t.Fatalf("after a cut at step %d: %s, then %s; it was %q", cut, i.Device(), again.Device(), used)
		}
		if count < cut {
			if cut < 7 {
				t.Errorf("only %d durable steps were seen", cut-1)
			}
			return
		}
	}
}

// TestFullDiskKeepsAFirstKeyFromBeingUsedUnstored: an id that the next start does not
// know would be a device for nobody; later keys may live in memory.
func TestFullDiskKeepsAFirstKeyFromBeingUsedUnstored(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g := w.bare()
	var full atomic.Bool
	g.fs.Hook = func(op, _ string) error {
		if full.Load() && op != fsx.OpMkdir {
			return syscall.ENOSPC
		}
		return nil
	}
	full.Store(true)
	if i, err := g.tryStart(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("started as %v, %v", i, err)
	}
	full.Store(false)
	i := g.enrol()
	for at := 1; ; at++ {
		var count atomic.Int32
		g.fs.Hook = func(string, string) error {
			if int(count.Add(1)) == at {
				return syscall.ENOSPC
			}
			return nil
		}
		if err := i.Rotate(t.Context()); err != nil {
			t.Fatalf("with no room for write %d: %v", at, err)
		}
		g.fs.Hook = nil
		id := i.Device()
		i = g.start()
		g.step(i, "")
		if serial(i) == "" || i.Device() != id || i.prove(t.Context(), i.current) != nil {
			t.Fatalf("after write %d failed: %s with %q", at, i.Device(), serial(i))
		}
		if int(count.Load()) < at {
			if at < 10 {
				t.Errorf("only %d writes were seen", at-1)
			}
			return
		}
	}
}

func TestReceiptOfAGatewayWithoutTPMIsSignedByItsCertificatesKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	i := w.bare().enrol()
	receipt, err := i.SignPayload([]byte(`{"v":1}`))
	w.must(err)
	c, _ := i.Current()
	if err := c.Leaf().CheckSignature(x509.ECDSAWithSHA256, wire.ReceiptBytes(receipt.Payload), receipt.Signature); err != nil || receipt.Serial != c.Serial() {
		t.Errorf("receipt %s by %s: %v", receipt.Serial, c.Serial(), err)
	}
}
