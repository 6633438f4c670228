package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/e2e/lab/image"
	"github.com/gatewarden/gatewarden/fleet/operator"
)

// Story 8: another build of the firmware costs some trust, not all of it. The fleet
// proposes it with its share of the model; once an operator approved it, the gateway
// is trusted again, by the same boot.
func TestFirmwareThatNobodyApprovedDegradesUntilAnOperatorDoes(t *testing.T) {
	inFull(t)
	const name = "OVMF with SMM"
	w := newWorld(t, setup{})
	w.enrol()
	if out := w.operate("firmware", "list"); !strings.Contains(out, "No firmware waits") {
		t.Errorf("before the change the fleet proposes\n%s", out)
	}

	w.vm.PowerOff()
	w.vm.Flash()
	began := time.Now()
	w.vm.PowerOn()
	s := w.judged("degraded", began)
	lines := w.explanation()
	t.Log(strings.Join(lines, "\n"))
	w.says(lines[:1], "degraded: firmware is not approved", "PCR 0", "measures")
	w.says(lines, "changed since the last trusted boot", "firmware")
	w.says(lines, "proposed", "gatewarden-fleet firmware list")
	if hasLine(lines, []string{"failed, distrusts"}) || strings.HasPrefix(s.Link.Identity, "q-") {
		t.Errorf("connected as %s, the verdict distrusts", s.Link.Identity)
	}

	const share = "1 of 1 gateways of this model with a certified TPM measure this"
	text := w.operate("firmware", "list")
	t.Log(text)
	w.says([]string{strings.ReplaceAll(text, "\n", " ")}, image.Hardware, share, "firmware is not approved", w.id)
	var list []operator.Firmware
	w.check(json.Unmarshal([]byte(w.operate("firmware", "list", "--json")), &list))
	if len(list) != 1 {
		t.Fatalf("the fleet proposes %d sets", len(list))
	}
	w.says([]string{w.operate("firmware", "approve", list[0].Hash[:16], "--name", name, "--by", person)}, name, "approved for "+image.Hardware, share)
	began = time.Now()
	w.judged(trusted, began)
	w.says(w.explanation(), "held", "firmware is the approved "+name)
	if out := w.operate("firmware", "list"); !strings.Contains(out, "No firmware waits") {
		t.Errorf("after the approval the fleet proposes\n%s", out)
	}
}
