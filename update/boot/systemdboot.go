package boot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// systemdBoot counts boots in file names (Boot Loader Specification, "Boot
// counting"). Each slot has one UKI in EFI/Linux: gw-b.efi once it was committed,
// gw-b+1.efi before its trial, gw-b+0-1.efi in it. While one has no try left the
// other slot's starts.
//
// FAT has no journal. A new UKI is written under a name that is no boot entry, and
// renamed when it is whole. No file of the slot that runs is ever removed or
// written over: whatever a power cut left of its names, one boots.
type systemdBoot struct{ Deps }

func newSystemdBoot(d Deps) *systemdBoot { return &systemdBoot{d} }

func (s *systemdBoot) Probe() error {
	if s.FS == nil || s.Folder == "" || s.ESP == "" || s.EFIVars == "" || s.CommandLine == "" {
		return errors.New("no EFI system partition is configured")
	}
	features, err := s.variable("LoaderFeatures")
	if err != nil {
		return err
	}
	const need = featureCounting | featureSortKey
	if len(features) != 8 || binary.LittleEndian.Uint64(features)&need != need {
		return errors.New("the boot loader does not count boots and sort by version; systemd-boot does from version 250 on")
	}
	return nil
}

func (s *systemdBoot) folder() string          { return filepath.Join(s.ESP, "EFI", "Linux") }
func (s *systemdBoot) path(name string) string { return filepath.Join(s.folder(), name) }

func (s *systemdBoot) entries() ([]Entry, error) {
	all, err := ReadEntries(os.DirFS(s.folder()))
	if err != nil {
		return nil, fmt.Errorf("read EFI system partition: %w", err)
	}
	return all, nil
}

// spend takes the try that this boot was off the name under which it was started.
// Firmware that can't write to the EFI system partition left it there, or one that
// found the next name taken: without this, a trial that was given up would be
// booted again.
func (s *systemdBoot) spend(started Entry) error {
	if _, left, _, _ := started.counter(); left == 0 {
		return nil
	}
	there, err := s.files(started.Slot())
	if err != nil || !slices.ContainsFunc(there, started.named) {
		return err
	}
	now := started.Booting()
	for slices.ContainsFunc(there, now.named) {
		now = now.Booting()
	}
	if err := s.FS.Rename(s.path(started.Name), s.path(now.Name)); err != nil {
		return fmt.Errorf("count this boot: %w", err)
	}
	return nil
}

// of returns a slot's entries.
func of(slot string, all []Entry) (its []Entry) {
	for _, e := range all {
		if e.Slot() == slot {
			its = append(its, e)
		}
	}
	return its
}

// files returns what has the name of a slot's UKI, readable or not.
func (s *systemdBoot) files(slot string) ([]Entry, error) {
	there, err := os.ReadDir(s.folder())
	if err != nil {
		return nil, fmt.Errorf("read EFI system partition: %w", err)
	}
	var all []Entry
	for _, file := range there {
		all = append(all, Entry{Name: file.Name()})
	}
	return of(slot, all), nil
}

func (s *systemdBoot) Booted() (slot string, trial bool, err error) {
	selected, err := s.selected()
	if err != nil {
		return "", false, err
	}
	if slot = selected.Slot(); slot == "" {
		return "", false, fmt.Errorf("systemd-boot started %.100q, which is no slot's", selected.Name)
	}
	line, err := s.FS.ReadFile(s.CommandLine, maxCommandLine)
	if err != nil {
		return "", false, fmt.Errorf("read kernel command line: %w", err)
	}
	if err := startsSlot(string(line), slot); err != nil {
		return "", false, fmt.Errorf("systemd-boot started slot %s, but the kernel's %w", slot, err)
	}
	all, err := s.entries()
	if err != nil {
		return "", false, err
	}
	if len(of(slot, all)) == 0 {
		return "", false, fmt.Errorf("%s holds no UKI of slot %s, which runs; is the EFI system partition mounted at %s?", s.folder(), slot, s.ESP)
	}
	if err := s.spend(selected); err != nil {
		return "", false, err
	}
	byDefault, ok := Choose(slices.DeleteFunc(all, Entry.counted))
	if ok && byDefault.Slot() == "" {
		return "", false, fmt.Errorf("systemd-boot starts %.100q before the UKIs of the slots: remove it from %s", byDefault.Name, s.folder())
	}
	return slot, !ok || byDefault.Slot() != slot, nil
}

func (s *systemdBoot) TryNext(slot string) error {
	if err := checkSlot(slot); err != nil {
		return err
	}
	running, trial, err := s.Booted()
	switch {
	case err != nil:
		return err
	case trial:
		return fmt.Errorf("slot %s runs on trial: commit it first, or reboot", running)
	case slot == running:
		return fmt.Errorf("slot %s is the default: it can't be on trial", slot)
	}
	if err := s.noDefault(); err != nil {
		return err
	}
	image, err := openStaged(filepath.Join(s.Folder, "slot-"+slot, s.Image()+".img"))
	if err != nil {
		return err
	}
	defer image.Close()
	all, err := s.entries()
	if err != nil {
		return err
	}
	next, err := promise(slot, running, image, all)
	if err != nil {
		return fmt.Errorf("check UKI of slot %s: %w", slot, err)
	}
	return s.place(next, image)
}

// place writes a UKI to the EFI system partition in place of all that its slot has
// there. The slot does not run.
func (s *systemdBoot) place(next Entry, image *os.File) error {
	old, err := s.files(next.Slot())
	if err != nil || len(old) == 1 && old[0].Name == next.Name && s.holds(next.Name, image) {
		return err
	}
	if err := s.remove(old); err != nil {
		return err
	}
	if err := s.FS.WriteFrom(s.path(next.Name), io.NewSectionReader(image, 0, maxUKI), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", next.Name, err)
	}
	if !s.holds(next.Name, image) {
		return errors.Join(fmt.Errorf("read back %s: it is not what was written", next.Name), s.remove([]Entry{next}))
	}
	return nil
}

// maxUKI is more than any UKI has, in bytes.
const maxUKI = 4 << 30

// openStaged opens the UKI that the helper verified for a slot.
func openStaged(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open staged UKI: %w", err)
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is no regular file")
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("open staged UKI: %w", err)
	}
	return file, nil
}

// promise returns the entry that puts image on trial, if systemd-boot will start
// it first, and running after it. all is what there is now.
func promise(slot, running string, image io.ReaderAt, all []Entry) (Entry, error) {
	next := Entry{Name: "gw-" + slot + "+1.efi"}
	entry, err := readUKI(image, &next)
	if err != nil {
		return next, err
	}
	if !entry || next.SortKey == "" || next.Version == "" {
		return next, errors.New("its os-release has no ID or no VERSION_ID")
	}
	if err := startsSlot(next.CommandLine, slot); err != nil {
		return next, fmt.Errorf("its %w", err)
	}
	for _, e := range of(running, all) {
		if e.SortKey != next.SortKey || compareVersions(e.Version, next.Version) >= 0 {
			return next, fmt.Errorf("its os-release says %s %s and that of slot %s %s %s: systemd-boot needs the same ID and a higher VERSION_ID", next.SortKey, next.Version, running, e.SortKey, e.Version)
		}
	}
	others := slices.DeleteFunc(slices.Clone(all), func(e Entry) bool { return e.Slot() == slot })
	if first, _ := Choose(append(slices.Clone(others), next)); first != next {
		return next, fmt.Errorf("systemd-boot would start %.100q first", first.Name)
	}
	if back, _ := Choose(append(slices.Clone(others), next.Booting())); back.Slot() != running {
		return next, fmt.Errorf("after the trial systemd-boot would start %.100q, not slot %s again", back.Name, running)
	}
	return next, nil
}

// holds says whether the file called name has the bytes of image.
func (s *systemdBoot) holds(name string, image io.ReaderAt) bool {
	file, err := os.Open(s.path(name))
	if err != nil {
		return false
	}
	defer file.Close()
	// Only advice: where it is not taken, the copy in memory is read.
	_ = unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED)
	var sums [2][]byte
	for i, r := range []io.Reader{file, io.NewSectionReader(image, 0, maxUKI)} {
		hash := sha256.New()
		if _, err := io.Copy(hash, r); err != nil {
			return false
		}
		sums[i] = hash.Sum(nil)
	}
	return bytes.Equal(sums[0], sums[1])
}

func (s *systemdBoot) remove(entries []Entry) error {
	for _, e := range entries {
		if err := s.FS.Remove(s.path(e.Name)); err != nil {
			return fmt.Errorf("remove old UKI: %w", err)
		}
	}
	return nil
}

// Commit takes the counter off the running slot's name, as systemd-bless-boot
// would, which then finds it done. Another slot than the running one is refused.
func (s *systemdBoot) Commit(slot string) error {
	if err := checkSlot(slot); err != nil {
		return err
	}
	running, _, err := s.Booted()
	if err == nil && running != slot {
		err = fmt.Errorf("slot %s runs: slot %s was not proven", running, slot)
	}
	if err != nil {
		return err
	}
	all, err := s.entries()
	if err != nil {
		return err
	}
	if its := of(slot, all); !slices.ContainsFunc(its, blessed) {
		if err := s.FS.Rename(s.path(its[0].Name), s.path(plain(slot))); err != nil {
			return fmt.Errorf("bless slot %s: %w", slot, err)
		}
	}
	tried, err := s.files(Other(slot))
	if err != nil {
		return err
	}
	if err := s.remove(slices.DeleteFunc(tried, blessed)); err != nil {
		return err
	}
	if all, err = s.entries(); err != nil {
		return err
	}
	if next, _ := Choose(all); next.Slot() != slot {
		return fmt.Errorf("read back: systemd-boot would start %.100q, not slot %s", next.Name, slot)
	}
	return nil
}

// Image is the kind of image that this loader starts, which each release must have.
func (s *systemdBoot) Image() string { return "boot" }

var (
	_ Loader = (*systemdBoot)(nil)
	_ Imager = (*systemdBoot)(nil)
)
