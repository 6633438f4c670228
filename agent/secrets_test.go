package agent

import (
	"errors"
	"fmt"
	"testing"

	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/seal"
)

// TestRefusalNamesTheEventThatTheFleetFound behind the PCR; other errors stay as they are.
func TestRefusalNamesTheEventThatTheFleetFound(t *testing.T) {
	shut := fmt.Errorf("open secret disk: %w", &seal.Refusal{Rule: "pcr", PCRs: []int{12}, Text: "PCR 12 (kernel command line and configuration) differs"})
	later := &seal.Refusal{Rule: "counter", Text: "the security epoch was raised"}
	verdict := &wire.Verdict{Explanation: []string{`untrusted: the command line has "lab.evil=1"`, "held: the firmware"}}
	err := whyShut(shut, verdict)
	want := `open secret disk: TPM policy refuses: PCR 12 (kernel command line and configuration) differs; the fleet judged this boot untrusted: the command line has "lab.evil=1"`
	if err.Error() != want || !errors.Is(err, tpm.ErrPolicy) {
		t.Errorf("it says\n%v, not\n%s", err, want)
	}
	for name, same := range map[string]struct {
		err error
		v   *wire.Verdict
	}{"not judged yet": {shut, nil}, "judged without a word": {shut, &wire.Verdict{}}, "another reason": {later, verdict}, "it opened": {nil, verdict}} {
		if got := whyShut(same.err, same.v); got != same.err {
			t.Errorf("%s: %v", name, got)
		}
	}
}
