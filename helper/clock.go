package helper

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const maxStateFile = 4 << 10 // bytes, of floor and challenge

// clock is the helper's own idea of time. It is used by one verb at a time.
type clock struct {
	Config
	floor     time.Time // no earlier time is believed
	challenge []byte    // this boot's, by which a command proves that it is fresh
}

type floorFile struct {
	Version int       `json:"v"` // 1
	Floor   time.Time `json:"floor"`
}

type challengeFile struct {
	Version   int    `json:"v"` // 1
	BootID    string `json:"boot_id"`
	Challenge []byte `json:"challenge"`
}

func (c Config) statePath(name string) string { return filepath.Join(c.State, name) }

// openClock reads floor and challenge. Damage to either never widens trust: the
// floor falls back to the build time, which only believes less, and a new
// challenge outdates the old.
func openClock(c Config) (*clock, error) {
	k := &clock{Config: c, floor: c.Build}
	var stored floorFile
	if err := k.read("time-floor.json", &stored); err != nil {
		return nil, err
	}
	if stored.Floor.After(k.floor) {
		k.floor = stored.Floor
	}
	var last challengeFile
	if err := k.read("challenge.json", &last); err != nil {
		return nil, err
	}
	if last.BootID == c.BootID && len(last.Challenge) == wire.NonceSize {
		k.challenge = last.Challenge
		return k, nil
	}
	k.challenge = make([]byte, wire.NonceSize)
	if _, err := rand.Read(k.challenge); err != nil {
		return nil, fmt.Errorf("make challenge: %w", err)
	}
	err := c.FS.WriteJSON(c.statePath("challenge.json"), challengeFile{Version: 1, BootID: c.BootID, Challenge: k.challenge}, 0o600)
	if err != nil {
		return nil, fmt.Errorf("store challenge: %w", err)
	}
	return k, nil
}

// read leaves v as it is if the file is absent or damaged.
func (k *clock) read(name string, v any) error {
	err := k.FS.ReadJSON(k.statePath(name), maxStateFile, v)
	if errors.Is(err, fsx.ErrDamaged) {
		k.Log.Warn("damaged file is replaced", "file", name, "error", err)
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// raise lifts the floor to issued, a field of a document in the trust folder.
func (k *clock) raise(issued time.Time) error {
	if !issued.After(k.floor) {
		return nil
	}
	if err := k.FS.WriteJSON(k.statePath("time-floor.json"), floorFile{Version: 1, Floor: issued.UTC()}, 0o600); err != nil {
		return fmt.Errorf("store time floor: %w", err)
	}
	k.floor = issued
	return nil
}

// time returns the time, never below the floor, and whether it may be believed.
func (k *clock) time() (time.Time, bool) {
	now := k.Now()
	if now.Before(k.floor) {
		return k.floor, false
	}
	return now, k.Synced()
}
