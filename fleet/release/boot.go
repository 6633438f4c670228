package release

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/update/release"
)

// input is the file of an image to be.
type input struct {
	kind, slot string // slot: that alone may get it, empty: either
	file       string
}

// ukis are the files of kind "boot": none, one, or one for each slot.
func (o *BuildOptions) ukis() ([]input, error) {
	switch perSlot := o.UKIA + o.UKIB; {
	case o.UKI != "" && perSlot == "":
		return []input{{"boot", "", o.UKI}}, nil
	case o.UKI == "" && o.UKIA != "" && o.UKIB != "":
		return []input{{"boot", "a", o.UKIA}, {"boot", "b", o.UKIB}}, nil
	case perSlot != "":
		return nil, errors.New("give one UKI for both slots, or one for slot a and one for slot b")
	case o.Loader != "":
		return nil, errors.New("a boot loader without a UKI: give both, or neither")
	}
	return nil, nil
}

// imageName is the name of an image in the repository, without its ending.
func imageName(kind, slot string) string {
	if slot == "" {
		return kind
	}
	return kind + "-" + slot
}

// Name tells the images of a release apart.
func (p PackedImage) Name() string { return imageName(p.Slot, p.For) }

// predict reads the boot files: what they measure becomes the reference values and
// the PCR policies.
func (r *Repo) predict(rel *release.Release, o BuildOptions, ukis []input) error {
	boots, err := readBoots(ukis, o.Loader)
	if err != nil || len(boots) == 0 {
		return err
	}
	var list []attest.Release
	for i, boot := range boots {
		one := boot.Release(rel.Product, rel.Version)
		one.For = ukis[i].slot
		list = append(list, one)
	}
	if len(list) == 1 {
		rel.Reference, err = json.Marshal(list[0])
	} else {
		rel.Reference, err = json.Marshal(list)
	}
	if err != nil {
		return err
	}
	if o.Unsigned {
		return nil
	}
	phases := o.Phases
	if len(phases) == 0 {
		phases = DefaultPhases()
	}
	rel.PCRPolicies, err = r.approve(rel, boots, phases)
	return err
}

// readBoots says what booting each UKI measures.
func readBoots(ukis []input, loaderFile string) ([]attest.Boot, error) {
	var loader []byte
	var err error
	if loaderFile != "" {
		if loader, err = readInput(loaderFile, maxBoot); err != nil {
			return nil, fmt.Errorf("read boot loader: %w", err)
		}
	}
	var boots []attest.Boot
	for _, in := range ukis {
		uki, err := readInput(in.file, maxBoot)
		if err != nil {
			return nil, fmt.Errorf("read UKI: %w", err)
		}
		boot, err := attest.ReadUKI(uki, loader)
		if err != nil {
			return nil, err
		}
		if word := misplaced(in.slot, boot.CommandLine); word != "" {
			return nil, fmt.Errorf("the UKI for slot %s has %q in its command line: no gateway would start it there", in.slot, word)
		}
		boots = append(boots, boot)
	}
	return boots, nil
}

// misplaced returns the word of a command line that names the root of the other slot
// than the one that the UKI is for.
func misplaced(slot, line string) string {
	other := map[string]string{"a": "slot-b", "b": "slot-a"}[slot]
	for word := range strings.FieldsSeq(line) {
		if other != "" && strings.HasSuffix(word, other) {
			return word
		}
	}
	return ""
}

// readInput follows links, as build systems leave them.
func readInput(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	return data, err
}
