// Package clock says what time it is and whether that may be believed.
//
// Its promise: a wrong clock may delay, but it never strands the device and never
// widens trust. The floor below which no time is believed rises only from the
// build time and from `issued` fields of documents that offline roles signed;
// RTC, NTP and servers are hints for this boot and never stored.
package clock

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/fsx"
)

const maxFloorFile = 4 << 10 // bytes

// Clock is safe for concurrent use.
type Clock struct {
	fs        *fsx.FS
	path      string
	now       func() time.Time
	synced    func() bool
	challenge []byte

	mu    sync.Mutex
	floor time.Time
	root  int64
	build time.Time
}

// Config of a Clock. All fields are required.
type Config struct {
	FS     *fsx.FS
	Dir    string           // holds time-floor.json
	Build  time.Time        // when this binary was made
	Now    func() time.Time // the system's clock
	Synced func() bool      // whether this boot's clock was set by a time source: KernelSynced
}

type floorFile struct {
	Version int       `json:"v"`
	Floor   time.Time `json:"floor"`
	Root    int64     `json:"root,omitempty"` // version of the root of trust under which it rose
}

// New reads the stored floor. A damaged one is replaced by the build time: a
// lower floor only makes the device believe less often, never more.
func New(c Config) (*Clock, error) {
	if c.FS == nil || c.Dir == "" || c.Now == nil || c.Synced == nil {
		return nil, errors.New("clock: incomplete configuration")
	}
	k := &Clock{fs: c.FS, path: filepath.Join(c.Dir, "time-floor.json"), now: c.Now, synced: c.Synced, floor: c.Build, build: c.Build, challenge: make([]byte, 32)}
	if _, err := rand.Read(k.challenge); err != nil {
		return nil, fmt.Errorf("make command challenge: %w", err)
	}
	var stored floorFile
	err := c.FS.ReadJSON(k.path, maxFloorFile, &stored)
	switch {
	case err == nil:
		k.root = stored.Root
		if stored.Floor.After(k.floor) {
			k.floor = stored.Floor
		}
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fsx.ErrDamaged):
	default:
		return nil, fmt.Errorf("read time floor: %w", err)
	}
	return k, nil
}

// Now returns the time, never below the floor, and whether it may be believed.
func (k *Clock) Now() (time.Time, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	if now.Before(k.floor) {
		return k.floor, false
	}
	return now, k.synced()
}

// Time is Now without the second answer, for uses that a wrong clock only delays.
func (k *Clock) Time() time.Time {
	now, _ := k.Now()
	return now
}

// Floor returns the time below which nothing is believed.
func (k *Clock) Floor() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.floor
}

// Raise lifts the floor to issued, a field that an offline or threshold role
// signed. A lower value changes nothing.
func (k *Clock) Raise(issued time.Time) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !issued.After(k.floor) {
		return nil
	}
	return k.store(issued, k.root)
}

// RaiseUnder is Raise for a document that is signed under a root of trust of this
// version. A newer root than the last one may lower the floor too, to what it
// vouches for: so an owner takes back a date that a stolen key signed.
func (k *Clock) RaiseUnder(root int64, issued time.Time) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	floor := k.floor
	if root > k.root && k.root > 0 {
		floor = k.build
	}
	if issued.After(floor) {
		floor = issued
	}
	if root <= k.root && floor.Equal(k.floor) {
		return nil
	}
	return k.store(floor, max(root, k.root))
}

// Root is the version of the root under which RaiseUnder was called last, 0 if it
// never was.
func (k *Clock) Root() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.root
}

func (k *Clock) store(floor time.Time, root int64) error {
	if err := k.fs.WriteJSON(k.path, floorFile{Version: 1, Floor: floor.UTC(), Root: root}, 0o600); err != nil {
		return fmt.Errorf("store time floor: %w", err)
	}
	k.floor, k.root = floor, root
	return nil
}

// Challenge is this start's 32 random bytes, by which an operator proves a
// command fresh to a device without trustworthy time.
func (k *Clock) Challenge() []byte { return k.challenge }

// KernelSynced reports whether a time daemon has set the kernel's clock
// (adjtimex(2), STA_UNSYNC clear).
func KernelSynced() bool {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	return err == nil && state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0
}
