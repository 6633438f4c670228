package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"unicode/utf16"
)

// What systemd-boot tells and takes by EFI variables (Boot Loader Interface).
const (
	loaderVendor    = "-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
	featureCounting = 1 << 4
	featureSortKey  = 1 << 8
	maxVariable     = 4 << 10 // bytes
	maxLoaderConf   = 64 << 10
	maxCommandLine  = 64 << 10
)

// variable returns an EFI variable of the loader without its attributes.
func (s *systemdBoot) variable(name string) ([]byte, error) {
	data, err := s.FS.ReadFile(filepath.Join(s.EFIVars, name+loaderVendor), maxVariable)
	if err == nil && len(data) < 4 {
		err = errors.New("it is too short")
	}
	if err != nil {
		return nil, fmt.Errorf("read EFI variable %s: %w", name, err)
	}
	return data[4:], nil
}

// selected is the entry that systemd-boot says it started, as it was named before.
func (s *systemdBoot) selected() (Entry, error) {
	data, err := s.variable("LoaderEntrySelected")
	if err != nil {
		return Entry{}, err
	}
	var text []uint16
	for ; len(data) >= 2 && (data[0] != 0 || data[1] != 0); data = data[2:] {
		text = append(text, binary.LittleEndian.Uint16(data))
	}
	return Entry{Name: string(utf16.Decode(text))}, nil
}

// startsSlot checks that a command line names the root of slot, and of no other.
func startsSlot(line, slot string) error {
	found := false
	for word := range strings.FieldsSeq(line) {
		_, value, _ := strings.Cut(word, "=")
		label, named := strings.CutPrefix(value, "PARTLABEL=slot-")
		if !named {
			label, named = strings.CutPrefix(value, "/dev/disk/by-partlabel/slot-")
		}
		if named && label != slot {
			return fmt.Errorf("command line says %.100q", word)
		}
		found = found || named
	}
	if !found {
		return fmt.Errorf("command line names no slot; it must hold root=PARTLABEL=slot-%s or the like", slot)
	}
	return nil
}

// noDefault refuses what would make systemd-boot start something else than the
// first entry, also after a failed trial.
func (s *systemdBoot) noDefault() error {
	_, err := s.variable("LoaderEntryDefault")
	if !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(errors.New("the EFI variable LoaderEntryDefault is set: run bootctl set-default ''"), err)
	}
	data, err := s.FS.ReadFile(filepath.Join(s.ESP, "loader", "loader.conf"), maxLoaderConf)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read loader.conf: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if words := strings.Fields(line); len(words) > 0 && words[0] == "default" {
			return errors.New("loader.conf has a line default: systemd-boot would keep to it; remove the line")
		}
	}
	return nil
}
