package boot

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Entry is a UKI in the folder EFI/Linux of an EFI system partition, as
// systemd-boot sees it (Boot Loader Specification, type 2).
type Entry struct {
	Name        string // of the file
	SortKey     string // IMAGE_ID or ID of its os-release
	Version     string // IMAGE_VERSION, VERSION, VERSION_ID or BUILD_ID
	CommandLine string
}

// ReadEntries lists the boot entries in linux, a folder EFI/Linux: that of a
// mounted EFI system partition, or a copy of one. A file that systemd-boot can't
// read is none. Files of linux must be io.ReaderAt.
func ReadEntries(linux fs.FS) ([]Entry, error) {
	files, err := fs.ReadDir(linux, ".")
	if err != nil {
		return nil, err
	}
	var all []Entry
	for _, file := range files {
		name := strings.ToLower(file.Name())
		if file.IsDir() || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "auto-") || !strings.HasSuffix(name, ".efi") {
			continue
		}
		e := Entry{Name: file.Name()}
		open, err := linux.Open(file.Name())
		if err != nil {
			return nil, err
		}
		data, ok := open.(io.ReaderAt)
		if !ok {
			return nil, errors.Join(fmt.Errorf("%s can't be read at an offset", e.Name), open.Close())
		}
		entry, err := readUKI(data, &e)
		if open.Close(); err == nil && entry {
			all = append(all, e)
		}
	}
	return all, nil
}

// Choose plays systemd-boot 250 and later without a configured default: it returns
// the entry that starts next, and false if there is none.
func Choose(all []Entry) (Entry, bool) {
	if len(all) == 0 {
		return Entry{}, false
	}
	return slices.MinFunc(all, before), true
}

// before orders entries as systemd-boot's menu does: those without a try left come
// last, then by sort key, then the newest version first.
func before(a, b Entry) int {
	_, leftA, doneA, countedA := a.counter()
	_, leftB, doneB, countedB := b.counter()
	c := cmp.Or(
		falseFirst(countedA && leftA == 0, countedB && leftB == 0),
		falseFirst(a.SortKey == "", b.SortKey == ""),
		strings.Compare(a.SortKey, b.SortKey),
	)
	if c == 0 && a.SortKey != "" {
		c = -compareVersions(a.Version, b.Version)
	}
	if c == 0 {
		c = -compareVersions(strings.ToLower(a.Name), strings.ToLower(b.Name))
	}
	if c != 0 || !countedA || !countedB {
		return c
	}
	return cmp.Or(-cmp.Compare(leftA, leftB), cmp.Compare(doneA, doneB))
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// counter splits a name as +LEFT or +LEFT-DONE stands before its .efi. base is the
// name without them.
func (e Entry) counter() (base string, left, done int, counted bool) {
	plus := strings.LastIndexByte(e.Name, '+')
	if plus < 0 || !strings.HasSuffix(e.Name, ".efi") {
		return e.Name, 0, 0, false
	}
	tries, tried, both := strings.Cut(strings.TrimSuffix(e.Name[plus+1:], ".efi"), "-")
	left, ok := number(tries)
	if both && ok {
		done, ok = number(tried)
	}
	if !ok {
		return e.Name, 0, 0, false
	}
	return e.Name[:plus] + ".efi", left, done, true
}

func number(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 31)
	return int(n), err == nil && strings.Trim(s, digits) == ""
}

// Booting is the entry as it is named once systemd-boot started it: one try less.
func (e Entry) Booting() Entry {
	base, left, done, counted := e.counter()
	if counted {
		e.Name = fmt.Sprintf("%s+%d-%d.efi", strings.TrimSuffix(base, ".efi"), max(left-1, 0), min(done, math.MaxInt32-1)+1)
	}
	return e
}

// Slot returns whose UKI the entry is, going by its name; empty if it is no slot's.
func (e Entry) Slot() string {
	base, _, _, _ := e.counter()
	for _, slot := range []string{SlotA, SlotB} {
		if strings.EqualFold(base, plain(slot)) {
			return slot
		}
	}
	return ""
}

// plain is the name of a slot's UKI that was committed.
func plain(slot string) string { return "gw-" + slot + ".efi" }

// counted says that a UKI was not committed.
func (e Entry) counted() bool {
	_, _, _, counted := e.counter()
	return counted
}

// named says whether other has the same name, as FAT sees it.
func (e Entry) named(other Entry) bool { return strings.EqualFold(e.Name, other.Name) }

func blessed(e Entry) bool { return !e.counted() }
