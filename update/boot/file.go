package boot

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/gatewarden/gatewarden/internal/fsx"
)

// Limits and names of the file loader's records.
const (
	maxFile     = 4 << 10 // bytes, of one record
	choiceFile  = "loader.json"
	currentFile = "current"
	fileVersion = 1
)

// file is a boot loader for machines that have none: demo and tests. A folder
// holds its choice; whoever plays the firmware calls FileBoot.
type file struct{ Deps }

// choice is loader.json, what a real loader keeps in its environment.
type choice struct {
	Version int    `json:"v"` // 1
	Default string `json:"default"`
	Try     string `json:"try"`   // the slot on trial; empty: none
	Tries   int    `json:"tries"` // boots that the trial has left, 0 or 1
}

// current is what runs, as a real loader hands it over with the boot.
type current struct {
	Version int    `json:"v"` // 1
	Slot    string `json:"slot"`
}

func newFile(d Deps) *file { return &file{d} }

func (f *file) path(name string) string { return filepath.Join(f.Folder, name) }

func (f *file) Probe() error {
	_, err := f.read()
	return err
}

// read returns the choice. A damaged one is an error: a guess could start a slot
// that nobody verified.
func (f *file) read() (choice, error) {
	var c choice
	if f.FS == nil || f.Folder == "" {
		return c, errors.New("the file loader has no folder")
	}
	if err := f.FS.ReadJSON(f.path(choiceFile), maxFile, &c); err != nil {
		return c, fmt.Errorf("read boot choice: %w", err)
	}
	if err := c.check(); err != nil {
		return choice{}, fmt.Errorf("check boot choice: %w", err)
	}
	return c, nil
}

func (c choice) check() error {
	switch {
	case c.Version != fileVersion:
		return fmt.Errorf("v is %d, not %d", c.Version, fileVersion)
	case c.Tries < 0 || c.Tries > 1 || c.Try == "" && c.Tries > 0:
		return fmt.Errorf("tries is %d", c.Tries)
	case c.Try != "" && checkSlot(c.Try) != nil:
		return checkSlot(c.Try)
	}
	return checkSlot(c.Default)
}

func (f *file) write(c choice) error {
	c.Version = fileVersion
	if err := f.FS.WriteJSON(f.path(choiceFile), c, 0o644); err != nil {
		return fmt.Errorf("write boot choice: %w", err)
	}
	back, err := f.read()
	if err == nil && back != c {
		err = errors.New("read back boot choice: it is not what was written")
	}
	return err
}

func (f *file) Booted() (slot string, trial bool, err error) {
	c, err := f.read()
	if err != nil {
		return "", false, err
	}
	var now current
	if err := f.FS.ReadJSON(f.path(currentFile), maxFile, &now); err != nil {
		return "", false, fmt.Errorf("read booted slot: %w", err)
	}
	if now.Version != fileVersion {
		return "", false, fmt.Errorf("read booted slot: v is %d, not %d", now.Version, fileVersion)
	}
	return now.Slot, now.Slot != c.Default, checkSlot(now.Slot)
}

func (f *file) TryNext(slot string) error {
	c, err := f.read()
	if err == nil {
		err = checkSlot(slot)
	}
	if err != nil {
		return err
	}
	if slot == c.Default {
		return fmt.Errorf("slot %s is the default: it can't be on trial", slot)
	}
	return f.write(choice{Default: c.Default, Try: slot, Tries: 1})
}

func (f *file) Commit(slot string) error {
	if err := checkSlot(slot); err != nil {
		return err
	}
	c, err := f.read()
	if err != nil {
		return err
	}
	done := choice{Version: fileVersion, Default: slot}
	if c == done {
		return nil
	}
	return f.write(done)
}

// FileInit lays down the choice of a new machine: slot is the default.
func FileInit(folder, slot string) error {
	if err := checkSlot(slot); err != nil {
		return err
	}
	f := newFile(Deps{FS: &fsx.FS{}, Folder: folder})
	if err := f.FS.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("make boot folder: %w", err)
	}
	return f.write(choice{Default: slot})
}

// FileState is what the loader would do next.
type FileState struct {
	Default string // slot
	Try     string // slot on trial; empty: none
	Tries   int    // boots that the trial has left
}

// FileRead tells whoever plays the firmware.
func FileRead(folder string) (FileState, error) {
	c, err := newFile(Deps{FS: &fsx.FS{}, Folder: folder}).read()
	return FileState{Default: c.Default, Try: c.Try, Tries: c.Tries}, err
}

// FileBoot is what the loader does at power on: it chooses the slot on trial if
// that has a boot left, which is used up first, and else the default.
func FileBoot(folder string) (slot string, err error) {
	return newFile(Deps{FS: &fsx.FS{}, Folder: folder}).boot()
}

func (f *file) boot() (string, error) {
	c, err := f.read()
	if err != nil {
		return "", err
	}
	slot := c.Default
	if c.Tries > 0 {
		slot, c.Tries = c.Try, 0
		if err := f.write(c); err != nil {
			return "", err
		}
	}
	if err := f.FS.WriteJSON(f.path(currentFile), current{Version: fileVersion, Slot: slot}, 0o644); err != nil {
		return "", fmt.Errorf("write booted slot: %w", err)
	}
	return slot, nil
}

var _ Loader = (*file)(nil)
