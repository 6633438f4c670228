package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent/local"
)

// cuts is how often the power goes; make e2e LONG=1 tries harder.
func cuts() int {
	if os.Getenv("GATEWARDEN_LONG") == "1" {
		return 200
	}
	return 20
}

// Story 6: killed at random moments while the agent works, the gateway comes back by
// itself: the same identity, no message lost, the secret opens, the TPM is not locked.
func TestAGatewayThatIsKilledAtRandomMomentsComesBack(t *testing.T) {
	inFull(t)
	w := newWorld(t, setup{})
	w.enrol()
	w.seal()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	before := w.until("the agent is idle", agentLimit, func(s local.Status) bool { return s.Certificate != nil })
	for n := range cuts() {
		// The agent judges itself, seals and renews until the power goes.
		w.vm.Run("systemd-run -q sh -c 'while :; do gatewarden attest --now; printf x | gatewarden seal noise; done'")
		moment := time.NewTimer(time.Duration(random.Int64N(int64(8 * time.Second)))) // the moment is the input, not a wait
		<-moment.C
		w.vm.PowerCut()
		began := time.Now()
		w.vm.PowerOn()
		s := w.judged(trusted, began)
		if s.Device != before.Device || s.Certificate.Identity != before.Certificate.Identity {
			t.Fatalf("cut %d: it came back as %s with %s", n, s.Device, s.Certificate.Identity)
		}
		if s.AuditIndex < before.AuditIndex || s.Outbox.Dropped != 0 {
			t.Fatalf("cut %d: the audit log fell from %d to %d, %d messages were dropped", n, before.AuditIndex, s.AuditIndex, s.Outbox.Dropped)
		}
		w.opens()
		if out := w.vm.Run("tpm2_getcap properties-variable"); !strings.Contains(out, "inLockout:                 0") {
			t.Fatalf("cut %d: the TPM is locked out:\n%s", n, out)
		}
		before = s
		t.Logf("cut %d of %d: back after %.0f s", n+1, cuts(), time.Since(began).Seconds())
	}
	if problems := w.vm.Run("journalctl -u gatewarden -p err --no-pager -o cat"); strings.Contains(problems, "panic") {
		t.Error(fmt.Sprint("the agent's journal:\n", problems))
	}
}
