package anchor_test

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/tpm/anchor"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// times is a tenth of n, or all of it where counts are run in full.
func times(n int) int {
	if os.Getenv("GATEWARDEN_LONG") != "" {
		return n
	}
	return n / 10
}

// TestWhoAltersTheBusShowsNoOtherEnd: a bit changed at any place of any command or
// answer of Extend gives an error, an alarm, or a mark that the chip holds.
func TestWhoAltersTheBusShowsNoOtherEnd(t *testing.T) {
	_, power := tpmtest.Start(t)
	honest := dial(t, power)
	r := begin(t, honest)
	probe := dial(t, power)
	extend(t, probe, r, 0)
	commands := len(probe.Codes())
	r = begin(t, honest)
	counts := make(map[string]int)
	for i := range times(1000) {
		n, fault := 1+i%commands, tpmtest.FlipBit(29*i, i%8, i/commands%2 == 1)
		chip := dial(t, power)
		chip.At(n, fault)
		next := r.With(uint64(i), head(fmt.Sprint(i)))
		shown, err := chip.extend(next)
		chip.Clear()
		_ = chip.tpm.Close()
		settled, checkErr := honest.check(next)
		switch {
		case err == nil && (checkErr != nil || !bytes.Equal(shown.Last.Value, settled.Last.Value)):
			t.Fatalf("command %d: shown %+v, it holds %+v: %v", n, shown.Last, settled.Last, checkErr)
		case err == nil:
			counts["true"]++
		default:
			counts["error"]++
		}
		if checkErr != nil { // another digest was extended: seen, and begun anew
			counts["seen"]++
			settled = begin(t, honest)
		}
		r = settled
	}
	t.Logf("%v", counts)
	if counts["error"] == 0 || counts["true"] == 0 || counts["seen"] == 0 {
		t.Errorf("nothing was altered, or everything: %v", counts)
	}
}

// TestOldEndShownByTheBusIsRefused: the log is cut, its old record is put back, and who
// holds the bus shows the value, or the index, of that time.
func TestOldEndShownByTheBusIsRefused(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip := dial(t, power)
	first := begin(t, chip)
	old := extend(t, chip, first, 1)
	extend(t, chip, old, 2)
	for name, c := range map[string]struct {
		record anchor.Record
		at     tpm2.TPMCC
		edit   func(answer []byte) []byte
	}{
		"old value": {old, tpm2.TPMCCNVRead, func(answer []byte) []byte {
			copy(answer[16:], old.Last.Value)
			return answer
		}},
		"never written": {first, tpm2.TPMCCNVReadPublic, func(answer []byte) []byte {
			answer[18] &^= 0x20 // TPMA_NV_WRITTEN, in the TPMS_NV_PUBLIC that TPM2_NV_ReadPublic answers
			return answer
		}},
	} {
		bus := dial(t, power)
		bus.On(c.at, 1, tpmtest.Alter(c.edit))
		if shown, err := bus.check(c.record); err == nil {
			t.Errorf("%s: %+v is believed", name, shown.Last)
		}
		if !slices.Contains(bus.Codes(), c.at) {
			t.Errorf("%s: nothing was altered", name)
		}
	}
}
