package identity

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/wire"
)

func TestAnswerThatSaysWaitIsObeyedWithinBounds(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"": time.Minute, "soon": time.Minute, "Wed, 21 Oct 2099 07:28:00 GMT": time.Minute, "0": minRetryAfter, "-5": minRetryAfter,
		"30": 30 * time.Second, "1e300": maxRetryAfter, "Inf": maxRetryAfter, "NaN": minRetryAfter, "99999999999": maxRetryAfter,
	} {
		if got := retryAfter(header); got != want && header != "NaN" || got < minRetryAfter || got > maxRetryAfter {
			t.Errorf("Retry-After %q: %s, want %s", header, got, want)
		}
	}
}

// A server that answers "accepted, ask at once" for ever is asked ever more seldom.
func TestEndlessAcceptedIsNoEndlessLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &Identity{cfg: Config{After: time.After}, newToken: make(chan struct{}, 1)}
		start := time.Now()
		for asked := range 100 {
			if err := i.awaitApproval(t.Context(), max(minRetryAfter, patience(asked))); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took < 15*time.Minute {
			t.Errorf("asked 100 times within %s", took)
		}
	})
}

func TestServerThatDribblesIsNotWaitedForEver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g, i := w.enrolled()
	old := serial(i)
	w.must(g.fs.Remove(filepath.Join(g.dir, currentFile)))
	i = g.start()
	slow := w.through(wire.PathEnroll, func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		for r.Context().Err() == nil {
			if _, err := io.WriteString(rw, " "); err != nil {
				return
			}
			rw.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	g.fleet.API = []string{slow, w.settings.Public.API[0]}
	i.anyone.http.Timeout = 250 * time.Millisecond
	for _, err := i.step(t.Context(), ""); err != nil; _, err = i.step(t.Context(), "") {
		// An honest server on a loaded machine may need longer than that.
		if i.anyone.http.Timeout *= 2; i.anyone.http.Timeout > time.Minute {
			t.Fatal(err) // the second address does not answer
		}
	}
	if serial(i) == old || serial(i) == "" {
		t.Errorf("the certificate is %q", serial(i))
	}
}

// The fleet is away for longer than a certificate lives.
func TestDeviceComesBackAfterTheCAWasDownForLongerThanACertificateLives(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g, i := w.enrolled()
	old, _ := i.Current()
	w.stop()
	g.pass(old.Leaf().NotAfter.Add(-time.Second)) // it expires while the agent runs
	i = g.start()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = i.Run(ctx) }) // its error is that of ctx
	t.Cleanup(func() { cancel(); running.Wait() })
	until(t, "the certificate has expired and renewal fails", func() bool {
		_, last := i.Status()
		return w.now().After(old.Leaf().NotAfter) && last != nil && strings.Contains(last.Error(), "reach the fleet")
	})
	w.serve()
	until(t, "the device has a new certificate", func() bool { return serial(i) != old.Serial() })
	cancel()
	running.Wait()
	if c, _ := i.Current(); i.prove(t.Context(), &c) != nil || c.Identity != i.Device() {
		t.Errorf("the certificate of %s is no good", c.Identity)
	}
}

// The CA was replaced while the device was off: fleet.json has other anchors.
func TestCertificateOfAReplacedCAIsReplaced(t *testing.T) {
	t.Parallel()
	w, next := newWorld(t, nil), newWorld(t, nil)
	g, i := w.enrolled()
	id, old := i.Device(), serial(i)
	g.fleet = next.trust()
	i = g.start()
	if i.Device() != id || serial(i) != "" || !g.saw("identity.credential-lost") {
		t.Errorf("device %s with certificate %q, events %q", i.Device(), serial(i), g.events)
	}
	ended := make(chan error, 1)
	go func() { _, err := i.step(t.Context(), ""); ended <- err }()
	until(t, "the new fleet can approve", func() bool { return next.api.Approve(t.Context(), id, approval(true)) == nil })
	w.must(<-ended)
	if serial(i) == old || i.prove(t.Context(), i.current) != nil {
		t.Error("the device has no certificate of the new CA")
	}
}

// A cleared TPM keeps its endorsement key and so the device its id; everything else
// is another's, and a person has to look.
func TestClearedTPMKeepsItsIDAndWaitsForApproval(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g, i := w.enrolled()
	id, old := i.Device(), serial(i)
	conn, err := net.Dial("unix", g.power.Socket)
	w.must(err)
	defer conn.Close()
	_, err = tpm2.Clear{AuthHandle: tpm2.TPMRHLockout}.Execute(transport.FromReadWriteCloser(conn))
	w.must(err)
	i = g.start()
	if i.Device() != id || serial(i) != "" || !g.saw("identity.ak-lost") {
		t.Fatalf("device %s (it was %s) with certificate %q, events %q", i.Device(), id, serial(i), g.events)
	}
	ended := make(chan error, 1)
	go func() { _, err := i.step(t.Context(), ""); ended <- err }()
	until(t, "the device waits for a person", func() bool {
		d, err := w.api.Device(t.Context(), id)
		return err == nil && d.State == registry.Pending
	})
	g.approve(id)
	w.must(<-ended)
	if serial(i) == old || serial(i) == "" {
		t.Errorf("the certificate is %q", serial(i))
	}
}

// The disk is full for one write, each in turn, then for all of them.
func TestDiskFullAtEachWriteStrandsNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g, i := w.enrolled()
	for at := 1; ; at++ {
		var count atomic.Int32
		g.fs.Hook = func(string, string) error {
			if int(count.Add(1)) == at {
				return syscall.ENOSPC
			}
			return nil
		}
		old := serial(i)
		if err := i.Rotate(t.Context()); err != nil || serial(i) == old {
			t.Fatalf("with no room for write %d: %v", at, err)
		}
		g.fs.Hook = nil
		used := serial(i)
		i = g.start()
		g.step(i, "")
		if serial(i) == "" || i.prove(t.Context(), i.current) != nil {
			t.Fatalf("after write %d failed the certificate %q of the next start is no good, %s was in use", at, serial(i), used)
		}
		if int(count.Load()) < at {
			if at < 15 {
				t.Errorf("only %d writes were seen", at-1)
			}
			return
		}
	}
}

// firstEnrolments tries first enrolments with one fault each, at each stride-th durable
// step where tests have to be quick. fault makes the nth step fail in a fresh folder
// and reports whether there was one; then the device must come in.
func firstEnrolments(t *testing.T, stride int, fault func(g *gateway, n int) (reached bool)) {
	t.Parallel()
	w := newWorld(t, nil)
	g := w.gateway()
	g.dir = filepath.Join(g.dir, "0")
	ctx, cancel := context.WithCancel(t.Context())
	var approving sync.WaitGroup
	var id atomic.Value
	approving.Go(func() { // an operator who says yes to whatever waits
		for ctx.Err() == nil {
			if device, ok := id.Load().(string); ok {
				_ = w.api.Approve(ctx, device, approval(true)) // mostly there is nothing to approve
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	t.Cleanup(func() { cancel(); approving.Wait() })
	id.Store(g.start().Device())
	if os.Getenv("GATEWARDEN_LONG") != "" {
		stride = 1
	}
	for n := 1; ; n += stride {
		if n%10 < stride { // the limit of enrolments from one address begins anew
			w.stop()
			w.serve()
		}
		g.dir = filepath.Join(filepath.Dir(g.dir), strings.Repeat("n", n))
		reached := fault(g, n)
		i := g.start()
		g.step(i, "")
		if serial(i) == "" || i.Device() != id.Load() || i.prove(t.Context(), i.current) != nil {
			t.Fatalf("after a fault at step %d the device is %s with certificate %q", n, i.Device(), serial(i))
		}
		if !reached {
			if n < 25 {
				t.Errorf("only %d durable steps were seen", n-1)
			}
			return
		}
	}
}

// Power goes at each durable step, those of New included.
func TestPowerCutInTheFirstEnrolmentNeverStrands(t *testing.T) {
	firstEnrolments(t, 3, (*gateway).cutFirst)
}

// There is no room for one write. Without the choice of endorsement key and the
// attestation key on the disk the agent does not go on: it says so.
func TestDiskFullInTheFirstEnrolmentStrandsNobody(t *testing.T) {
	firstEnrolments(t, 5, func(g *gateway, n int) (reached bool) {
		count := 0
		g.fs.Hook = func(string, string) error {
			if count++; count == n {
				reached = true
				return syscall.ENOSPC
			}
			return nil
		}
		defer func() { g.fs.Hook = nil }()
		i, err := g.tryStart()
		if err == nil {
			g.step(i, "")
		} else if !errors.Is(err, syscall.ENOSPC) {
			g.Error(err)
		}
		return reached
	})
}

// cutFirst ends a first start at the nth durable operation, and reports whether
// there was one.
func (g *gateway) cutFirst(n int) (reached bool) {
	g.Helper()
	count := 0
	g.fs.Hook = func(string, string) error {
		if count++; count == n {
			reached = true
			return errPower
		}
		if count > n {
			return errPower
		}
		return nil
	}
	defer func() { g.fs.Hook = nil }()
	i, err := g.tryStart()
	if err != nil {
		if !errors.Is(err, errPower) {
			g.Fatal(err)
		}
		return reached
	}
	g.fs.Hook = nil
	return g.cutAt(i, n-count, "") || reached
}

var errPower = errors.New("the power is gone")
