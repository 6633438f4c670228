// Package boot tells the boot loader which of two slots to start.
//
// Its promise, for every loader: a slot that TryNext named is booted once. If it
// is not committed in that boot, the next boot is the old default again, with
// nobody's help. A power cut in any call leaves one choice that boots.
package boot

import (
	"errors"
	"fmt"

	"github.com/gatewarden/gatewarden/internal/fsx"
)

// The two slots. Which one a release goes to is the device's choice.
const (
	SlotA = "a"
	SlotB = "b"
)

// Loader is one boot loader. Its methods may be repeated; they are not safe for
// concurrent use.
type Loader interface {
	// Probe returns nil if this loader booted the machine, else why it did not.
	Probe() error
	// Booted returns the slot that runs, and whether on trial: it is not the
	// default, so that the next boot leaves it.
	Booted() (slot string, trial bool, err error)
	// TryNext makes the next boot, and only that one, start slot. It refuses the
	// default slot.
	TryNext(slot string) error
	// Commit makes slot the default from now on, drops a TryNext that was not
	// used yet, and reads back what it wrote. It may refuse a slot that does not run.
	Commit(slot string) error
}

// Imager is a Loader that starts an image of the release itself.
type Imager interface {
	// Image is the kind of that image. TryNext takes it from the slot's folder.
	Image() string
}

// Deps is what loaders are made of. All need FS and Folder; the rest is for
// systemd-boot, which is not there without ESP.
type Deps struct {
	FS          *fsx.FS
	Folder      string // with slot-a and slot-b; the file loader's records are in it
	ESP         string // where the EFI system partition is mounted
	EFIVars     string // folder of efivarfs
	CommandLine string // file with the kernel's command line
}

// Named is a loader by the name that a configuration uses.
type Named struct {
	Name string
	Loader
}

// Detect returns the loader that booted this machine, the first that says so.
func Detect(d Deps) (Loader, error) {
	var why []error
	for _, l := range All(d) {
		err := l.Probe()
		if err == nil {
			return l.Loader, nil
		}
		why = append(why, fmt.Errorf("%s: %w", l.Name, err))
	}
	return nil, fmt.Errorf("find boot loader: %w", errors.Join(why...))
}

// Other is the slot that is not slot.
func Other(slot string) string {
	if slot == SlotA {
		return SlotB
	}
	return SlotA
}

func checkSlot(slot string) error {
	if slot != SlotA && slot != SlotB {
		return fmt.Errorf("no slot is called %.40q", slot)
	}
	return nil
}
