package verifier_test

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
)

// crowd registers n more devices, each with a verdict. Their attestation key is that
// of the one TPM.
func (c *court) crowd(n int) {
	c.Helper()
	for i := range n {
		id := crowdID(i)
		_, _, err := c.store.Enroll(c.Context(), registry.Device{ID: id, Model: "lab-box", EKName: []byte(id), AKPublic: c.ak.TPMPublic(), Created: c.now()})
		c.must(err)
		c.must(c.store.AddVerdict(c.Context(), registry.Verdict{Device: id, At: c.now(), Grade: "trusted", Gate: "full", Explanation: []string{"trusted"}}))
	}
}

func crowdID(i int) string { return "gw-" + key(fmt.Sprint(i))[:16] }

// attest has a device ask and be judged, and returns what that took the server:
// challenge, appraisal, persistence.
func (c *court) attest(id string) time.Duration {
	c.Helper()
	c.must(c.store.SetState(c.Context(), id, registry.Active, "olga", "test", c.now()))
	channel := c.certify(id)
	began := time.Now()
	challenge, err := c.verifier.Challenge(c.Context(), id)
	asked := time.Since(began)
	c.must(err)
	ev := c.evidenceOf(id, challenge, key(id))
	began = time.Now()
	_, err = c.verifier.Appraise(c.Context(), id, channel, ev)
	asked += time.Since(began)
	c.must(err)
	return asked
}

// BenchmarkAttestationInALargeFleet reports what an attestation costs among 100,000
// devices, in times of what it costs among 1,000 in the same run (BUDGETS 12). Each
// of up to 1,000 is another device's, so that no cache helps. The database lies in
// memory, where it can: the disk's noise is not the question.
func BenchmarkAttestationInALargeFleet(b *testing.B) {
	const few, many = 1000, 100_000
	if _, err := os.Stat("/dev/shm"); err == nil {
		b.Setenv("TMPDIR", "/dev/shm")
	}
	small, large := newCourt(b), newCourt(b)
	small.crowd(few)
	large.crowd(many)
	var among [2][]time.Duration
	n := 0
	for b.Loop() {
		among[0] = append(among[0], small.attest(crowdID(n%few)))
		among[1] = append(among[1], large.attest(crowdID(n*7919%many)))
		n++
	}
	slices.Sort(among[0])
	slices.Sort(among[1])
	b.ReportMetric(float64(among[1][n/2])/float64(among[0][n/2]), "x-of-1k")
	b.ReportMetric(float64(among[1][n/2].Microseconds()), "us/attestation")
}
