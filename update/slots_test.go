package update

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/update/boot"
	"github.com/gatewarden/gatewarden/update/release"
)

// bootImage is what starts a version in a slot: as a UKI, it is the same in each
// release and slot but for a few bytes.
func (m *machine) bootImage(version, slot string) []byte {
	data := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(data)
	copy(data[len(data)/2:], version+" root=PARTLABEL=slot-"+slot)
	m.images[fmt.Sprintf("%x", sha256.Sum256(data))] = version + " " + slot
	return data
}

// publishForBoth signs a release that has a boot image for each slot, with the
// images of a version.
func (m *machine) publishForBoth(version, images string) {
	m.t.Helper()
	m.sign(author(version),
		m.pack(version, release.Image{Slot: "rootfs"}, m.image(images, 4)),
		m.pack(version, release.Image{Slot: "boot", For: "a"}, m.bootImage(images, "a")),
		m.pack(version, release.Image{Slot: "boot", For: "b"}, m.bootImage(images, "b")))
}

// newBootedMachine is one whose slot first runs 1.0.0, with its own boot image.
func newBootedMachine(t *testing.T, first string) *machine {
	t.Helper()
	m := newMachine(t)
	m.must(os.RemoveAll(m.path("slots")))
	for _, slot := range []string{boot.SlotA, boot.SlotB} {
		m.must(os.MkdirAll(m.path("slots/slot-"+slot), 0o755))
	}
	m.must(boot.FileInit(m.path("slots"), first))
	m.write("slots/slot-"+first+"/rootfs.img", m.image("1.0.0", 4))
	m.write("slots/slot-"+first+"/boot.img", m.bootImage("1.0.0", first))
	m.publishForBoth("1.0.0", "1.0.0")
	return m
}

// The kernel's command line is inside the boot image and names a slot: each update
// brings the image of the slot that it goes to, and asks for no other. powerOn
// checks at each boot that it is the one.
func TestReleaseWithABootImageForEachSlotGoesBothWays(t *testing.T) {
	for first, second := range map[string]string{boot.SlotA: boot.SlotB, boot.SlotB: boot.SlotA} {
		t.Run("from "+first, func(t *testing.T) {
			t.Parallel()
			m := newBootedMachine(t, first)
			into := []string{second, first, second}
			for i, version := range []string{"2.0.0", "3.0.0", "4.0.0"} {
				m.targets = nil
				m.publishForBoth(version, version)
				m.live(m.settled(i + 1))
				if u := m.outcomes()[i]; u.Outcome != wire.UpdateInstalled || u.Release != version || m.running != version {
					t.Fatalf("%s runs after %+v", m.running, u)
				} else if u.Chunks > 8 {
					t.Errorf("%s: %d chunks were fetched, though the running slot holds nearly all", version, u.Chunks)
				}
				m.wantRunning(version, into[i])
				for _, path := range m.targets {
					if strings.Contains(path, "/"+version+"/") && strings.HasSuffix(path, "boot-"+other(into[i])+".caibx") {
						t.Errorf("for slot %s it asked for %s", into[i], path)
					}
				}
			}
		})
	}
}

// BUDGETS 9, where the images for the two slots differ: the first time that a slot gets
// a boot image, one chunk of it is new; then nothing is.
func TestUpdateThatChangesNothingForTheSlotFetchesAtMost64KB(t *testing.T) {
	t.Parallel()
	m := newBootedMachine(t, boot.SlotA)
	for i, version := range []string{"2.0.0", "3.0.0", "4.0.0"} {
		m.publishForBoth(version, "2.0.0")
		m.live(m.settled(i + 1))
		u := m.outcomes()[i]
		t.Logf("%s: %d chunks, %d bytes", version, u.Chunks, u.Fetched)
		if u.Outcome != wire.UpdateInstalled || version == "3.0.0" && u.Chunks > 1 || version == "4.0.0" && (u.Chunks > 0 || u.Fetched > 64<<10) {
			t.Errorf("%+v", u)
		}
	}
}

// wantRunning checks which slot runs, with its own boot image.
func (m *machine) wantRunning(version, slot string) {
	m.t.Helper()
	data, err := os.ReadFile(m.path("slots/slot-" + slot + "/boot.img"))
	m.must(err)
	now, err := boot.FileBoot(m.path("slots"))
	m.must(err)
	if is := m.images[fmt.Sprintf("%x", sha256.Sum256(data))]; now != slot || is != version+" "+slot {
		m.t.Errorf("slot %s runs and slot %s holds the boot image of %q, want %s in slot %s", now, slot, is, version, slot)
	}
}
