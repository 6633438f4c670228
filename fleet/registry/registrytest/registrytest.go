// Package registrytest is the conformance suite of the fleet's registry: what
// any database behind it must hold.
package registrytest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
)

// Run runs the suite. open returns an empty registry, closed by the test's end.
func Run(t *testing.T, open func(t *testing.T) *registry.Store) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, s *registry.Store)
	}{
		{"a device is stored as enrolled and found again", deviceRoundTrip},
		{"a device id can't be taken by another EK", deviceBoundToEK},
		{"a change of state is approved once and audited", stateAudited},
		{"the server brings nobody in and nobody back", stateOfTheServer},
		{"pages show every selected device once", pagesComplete},
		{"claims of a device always fit", hostileClaims},
		{"100 concurrent uses of a ticket yield one success", ticketOnce},
		{"a ticket expires and is bounded per device", ticketExpires},
		{"a nonce is single-use, bound and expiring", nonceOnce},
		{"a failed issuance burns no ticket", issuanceAtomic},
		{"state decides who gets certificates", issuanceByState},
		{"certificates that share a commit fail each for itself", issuanceShared},
		{"an identity ends with its last good certificate", ended},
		{"revocation reaches every other certificate", revocation},
		{"100 concurrent uses of a token admit one device", tokenOnce},
		{"an entry of the allow-list admits once", allowedOnce},
		{"an admission is whole or nothing", admissionAtomic},
		{"a device that leaves keeps nothing but its id", detached},
		{"a revocation is taken back by name and brings no certificate back", admittedAgain},
		{"a verdict sets grade and memory", verdicts},
		{"logs and firmware are kept once", reference},
		{"messages are neither lost nor doubled under reorder and retry", ingestExactlyOnce},
		{"a gap that the device knows of is accepted, one it doesn't is not", ingestGaps},
		{"effects come with the message or not at all", ingestEffects},
		{"a bad message doesn't hold up a batch", ingestPoison},
		{"messages of one update are one update, told by its last", updatesGrouped},
		{"a verdict ends the wait of the release that was kept without one", updateJudged},
		{"updates of a device are bounded in number and size", updatesBounded},
		{"a release is counted by what devices did with it last", releasesCounted},
		{"events are proven by the audit head that a quote names", eventsProven},
		{"a proven outcome can't be overwritten", outcomeProven},
		{"firmware is counted by what approved devices show", firmwareCounted},
		{"falls of a model are counted from when they began", fallsCounted},
		{"commands stay pending until their receipt", commands},
		{"the timeline pages backwards without loss", timeline},
		{"trim keeps the newest", trim},
		{"a slow subscriber misses nothing and blocks nobody", subscribe},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

// start is when the suite begins, as far as the registry is told.
func start() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func deviceID(n int) string { return fmt.Sprintf("gw-%016d", n) }

// withoutTPM is the one of the devices that has no TPM.
const withoutTPM = 7

func enroll(t *testing.T, s *registry.Store, n int) string {
	t.Helper()
	id := deviceID(n)
	_, created, err := s.Enroll(t.Context(), registry.Device{
		ID: id, Model: "box", Hostname: fmt.Sprintf("Site-%d", n), Software: "1.0.0", EKName: []byte(id), EKPublic: []byte("ek"), AKPublic: []byte("ak"), Created: start(),
		SoftwareKeys: n == withoutTPM,
	})
	must(t, err)
	if !created {
		t.Fatalf("device %s existed", id)
	}
	return id
}

func active(t *testing.T, s *registry.Store, n int) string {
	t.Helper()
	id := enroll(t, s, n)
	must(t, s.SetState(t.Context(), id, registry.Active, "alice", "known", start()))
	return id
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// race calls f from n goroutines at once and returns how many calls gave nil;
// every other error must satisfy refused.
func race(t *testing.T, n int, f func(ctx context.Context) error, refused func(error) bool) int {
	t.Helper()
	var won atomic.Int32
	var wg sync.WaitGroup
	gate := make(chan struct{})
	for range n {
		wg.Go(func() {
			<-gate
			switch err := f(t.Context()); {
			case err == nil:
				won.Add(1)
			case !refused(err):
				t.Error(err)
			}
		})
	}
	close(gate)
	wg.Wait()
	return int(won.Load())
}
