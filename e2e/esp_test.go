package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/e2e/lab"
	"github.com/gatewarden/gatewarden/update/boot"
)

// What the machine has acknowledged, by the mark that it wrote.
const (
	enrolled  = 1
	committed = 2 // release 2.0.0 in slot b
	inPlace   = 3 // a bad installer begins to write over the image that boots
	unsynced  = 4 // another one begins to put the right one back, without fsync
)

// espStates are what power cuts leave of the EFI system partition, and what is wrong
// there, by the last mark.
type espStates struct {
	*world
	first, second []byte // slot a's image, slot b's
	other         []byte // the first bad installer's
	states, bad   [unsynced + 1]int
	repaired      int  // states in which the check at boot found something
	control       bool // harm is expected: it is counted, not told
}

// Story 5: whatever a power cut takes of the writes to the EFI system partition, from
// before an update until after its commit, one of the slots boots with the image that
// was put there; until the commit the old one still does. The firmware's own rename is
// among the writes. Three controls must fail: flushes ignored, an image that is written
// in place, and one that is renamed before it is synced.
func TestNoCutInAnUpdateLeavesABootPartitionWithoutASlot(t *testing.T) {
	inFull(t)
	w := newWorld(t, setup{coldBoot: true, machine: lab.Machine{Logged: true}})
	w.enrol()
	w.mark(enrolled)
	next := w.later("2.0.0", nil)
	w.offer(next)
	w.vm.Up()
	if u := w.outcome("2.0.0", trialLimit); u.Outcome != "installed" {
		t.Fatalf("release 2.0.0: %s: %s", u.Outcome, u.Text)
	}
	w.check(w.hasEntries("gw-a.efi gw-b.efi"))
	w.mark(committed)
	e := espStates{world: w, second: w.uki(next.UKI("b")), first: w.vm.Get("/efi/EFI/Linux/gw-a.efi")}
	e.other = slightlyOther(e.second)
	w.vm.Put("/var/lib/lab/other.efi", e.other)
	w.mark(inPlace)
	w.vm.Run("dd if=/var/lib/lab/other.efi of=/efi/EFI/Linux/gw-b.efi bs=1M skip=9 seek=9 count=2 conv=notrunc status=none; sync")
	w.mark(unsynced)
	w.vm.Run("cp /var/lib/gatewarden-helper/slots/slot-b/boot.img /efi/EFI/Linux/.new; mv /efi/EFI/Linux/.new /efi/EFI/Linux/gw-b.efi; sync")
	w.vm.PowerCut()

	seed := newSeed(w)
	w.vm.CrashStates("esp", 600, seed, lab.Lose{}, e.look)
	t.Logf("by the last mark, 0 to %d: %v states, %v of them bad; in %d the check at boot found something", unsynced, e.states, e.bad, e.repaired)
	for mark := range inPlace {
		if e.bad[mark] > 0 {
			t.Errorf("after mark %d, %d of %d states are bad", mark, e.bad[mark], e.states[mark])
		}
	}
	if e.states[enrolled] < 200 {
		t.Errorf("%d states are of the update: too few to show anything", e.states[enrolled])
	}
	if e.bad[inPlace] == 0 || e.bad[unsynced] == 0 {
		t.Error("two bad installers do no harm: the test sees nothing")
	}
	ignored := espStates{world: w, first: e.first, second: e.second, other: e.other, control: true}
	w.vm.CrashStates("esp", 250, seed, lab.Lose{Flushed: true}, ignored.look)
	t.Logf("control, flushes ignored: %v states, %v of them bad", ignored.states, ignored.bad)
	if ignored.bad[enrolled]+ignored.bad[committed] == 0 {
		t.Error("with flushes ignored all slots boot: the test sees nothing")
	}
	data := w.crashes(100, seed, lab.Lose{}, (*harm).read)
	t.Logf("the data partition of the same update: %+v", data)
	if data.unclean+data.damaged > 0 {
		t.Errorf("a power cut in an update does harm: %+v", data)
	}
}

func (w *world) mark(n int) {
	w.Helper()
	w.vm.Run(fmt.Sprintf("n=%d; %s", n, lab.Mark))
}

func (w *world) uki(path string) []byte {
	w.Helper()
	data, err := os.ReadFile(path)
	w.check(err)
	return data
}

// slightlyOther is as readable as image, and differs in each sector of two MiB.
func slightlyOther(image []byte) []byte {
	other := bytes.Clone(image)
	for i := 9 << 20; i < 11<<20; i += 512 {
		other[i] ^= 1
	}
	return other
}

// look examines a state as the firmware finds it, and again as the check at boot leaves
// it.
func (e *espStates) look(c lab.Crash) {
	e.states[c.Acked]++
	err := e.bootable(c)
	said, failed := c.CheckFAT()
	if strings.Contains(said, "share clusters") && (strings.Contains(strings.ToLower(said), "/gw-a") || c.Acked == committed) {
		err = fmt.Errorf("a file of the slot that runs shares clusters: %s", said)
	}
	if err == nil && failed == nil {
		if err = e.bootable(c); err != nil {
			err = fmt.Errorf("once it was repaired: %w", err)
		}
	}
	if strings.Contains(said, "share clusters") || strings.Contains(said, "Reclaimed") {
		e.repaired++
	}
	if err != nil || failed != nil {
		e.bad[c.Acked]++
		if c.Acked < inPlace && !e.control {
			e.Logf("after mark %d: %v, %v\n%s", c.Acked, err, failed, said)
		}
	}
}

// bootable returns an error unless systemd-boot starts a slot by an image that was put
// there; the committed one once the machine said so, and before that the old one if the
// new one is given up.
func (e *espStates) bootable(c lab.Crash) error {
	dir, err := os.MkdirTemp(filepath.Dir(c.Image), "esp") // in memory
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	unread := c.ExtractFAT("/EFI/Linux", dir)
	linux := filepath.Join(dir, "Linux")
	entries, err := boot.ReadEntries(os.DirFS(linux))
	if err != nil {
		return err
	}
	starts, ok := boot.Choose(entries)
	if !ok {
		return fmt.Errorf("no boot entry; unread: %s", unread)
	}
	if c.Acked >= committed && starts.Slot() != boot.SlotB {
		return fmt.Errorf("%s starts, though slot b was committed", starts.Name)
	}
	genuine := map[string][][]byte{boot.SlotA: {e.first}, boot.SlotB: {e.second}}
	if c.Acked >= inPlace {
		genuine[boot.SlotB] = append(genuine[boot.SlotB], e.other)
		return holds(filepath.Join(linux, starts.Name), genuine[starts.Slot()])
	}
	return errors.Join(holds(filepath.Join(linux, starts.Name), genuine[starts.Slot()]), holds(filepath.Join(linux, "gw-a.efi"), genuine[boot.SlotA]))
}

// holds returns an error unless a file is one of the images.
func holds(path string, images [][]byte) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for _, image := range images {
		if bytes.Equal(data, image) {
			return nil
		}
	}
	return fmt.Errorf("%s has %d bytes that nobody put there", filepath.Base(path), len(data))
}
