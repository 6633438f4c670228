// Package update brings a gateway from one signed release to the next.
//
// Its promise: whatever fails on the way, and wherever the power goes, the device
// runs either the old release or the new one, never stays between them, fetches
// nothing twice but the chunk that was under way, and tells what truly became of
// the update until that is durable elsewhere. The engine records what it is about
// to do, then does it, and each act may be repeated.
//
// The engine is only a courier: the installer verifies by itself what it is asked
// to write and to boot.
package update

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/helperwire"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/update/chunk/store"
	"github.com/gatewarden/gatewarden/update/release"
	"github.com/gatewarden/gatewarden/update/tuf"
)

// Repo is the owner's update repository, verified against this device's own trust.
// The engine calls one method at a time.
type Repo interface {
	// Refresh brings the trusted metadata up to date. A *tuf.Refusal says that what
	// the repository offers is not what its owner signed.
	Refresh(ctx context.Context) error
	// List returns the targets whose path begins with prefix, as Refresh found them.
	List(ctx context.Context, prefix string) ([]Target, error)
	// Read returns a target's bytes, verified: one of stored if that is what was
	// signed, else from the network.
	Read(ctx context.Context, path string, stored ...[]byte) ([]byte, error)
	// Check says whether data is the target of that path, by metadata that were
	// verified before. It asks no network.
	Check(ctx context.Context, path string, data []byte) error
	// Custom is what those metadata say of a target, without the network too.
	Custom(ctx context.Context, path string) (json.RawMessage, error)
	// Root returns version and end of the newest root that was verified.
	Root() (version int64, end time.Time, err error)
	// Fetch opens a metadata file under the name that the repository gives it, for
	// an installer that verifies by itself.
	tuf.Fetcher
}

// Target is what signed metadata says of one file.
type Target struct {
	Path   string
	Custom json.RawMessage
}

// Installer is the process that may write slots and choose what boots. Each of
// its methods may be repeated. An error of type *policy.Refusal is final.
type Installer interface {
	Slots(ctx context.Context) (helperwire.Slots, error)
	// Install begins a session that writes the spare slot. The installer asks
	// metadata for the signed files that it wants to see.
	Install(ctx context.Context, target string, metadata tuf.Fetcher) (Session, error)
	Try(ctx context.Context, version string) error // the machine goes down after it
	Commit(ctx context.Context, version string) error
	Rollback(ctx context.Context) error // the machine goes down after it if it runs on trial
}

// Session writes the images of one release: for each image Index, Seed, and a
// Chunk for each that Seed said is missing; at last Finish.
type Session interface {
	Images() []helperwire.Image
	Index(ctx context.Context, kind string, index []byte) error
	// Seed returns the numbers of the chunks that are missing, of equal ones only the
	// first. running is the index of what the running slot holds, or empty.
	Seed(ctx context.Context, running []byte, progress func(done, total int64)) (missing []int, err error)
	Chunk(ctx context.Context, n int, data []byte) error // durable when it returns
	Finish(ctx context.Context, progress func(done, total int64)) error
	Close() error
}

// Resealer carries sealed secrets over to the release that runs on trial. All
// methods may be repeated. A *policy.Refusal says that a secret would be lost.
type Resealer interface {
	// Foresee is called before the reboot into r in slot: secrets that open by no
	// signature of r's owner must open in its boot, too.
	Foresee(ctx context.Context, r *release.Release, slot string) error
	Prepare(ctx context.Context, r *release.Release) error // before the commit: they open under both
	Settle(ctx context.Context, r *release.Release) error  // after it: they open under r alone
}

// Config is what an Engine needs. All but Secrets is required.
type Config struct {
	FS        *fsx.FS
	Dir       string // of the record and the indexes; the engine's own
	Repo      Repo
	Installer Installer
	// Chunks returns where chunks are kept, in the order of preference. What comes
	// from a network is read against budget.
	Chunks  func(budget *store.Budget) ([]store.Place, error)
	Fetched func() int64 // bytes that Repo and Chunks have read from the network so far
	Secrets Resealer     // nil: there are none

	Condition func() Condition        // how the device does; see Condition
	Report    func(wire.Update) error // durable when it returns

	Budget int64         // bytes that one update may read from the network
	Every  time.Duration // between two looks at the repository
	Auto   bool          // install what is found; else only Apply does
	Settle time.Duration // how long a device may take to show its condition before an update
	Patience
	Uptime func() time.Duration // since this boot; never falls within one boot
	Now    func() time.Time     // stamps
	Rand   func() float64       // 0 to 1, for jitter
	Log    *slog.Logger
}

// Patience is how long what fails is tried again.
type Patience struct {
	Retry   time.Duration // first rest after a failure; it doubles
	MaxRest time.Duration // longest rest
	Tries   int           // failures in a row, without a byte gained, that end an update
	Reboot  time.Duration // how long the machine may take to go down
	Look    time.Duration // between two looks at the condition on trial
	Chunk   time.Duration // for one chunk
}

// DefaultPatience suits a gateway on a slow network.
func DefaultPatience() Patience {
	return Patience{Retry: 5 * time.Second, MaxRest: 15 * time.Minute, Tries: 20, Reboot: 10 * time.Minute, Look: time.Second, Chunk: 2 * time.Minute}
}

// Engine is the state machine. Run is for one goroutine; the other methods are
// safe for concurrent use with it.
type Engine struct {
	cfg  Config
	log  *slog.Logger
	acts map[State]act
	wake chan struct{}

	repo sync.Mutex // guards cfg.Repo

	mu       sync.Mutex
	record   Record
	progress Progress
	fault    error         // of the last act; nil if it succeeded
	failures int           // of acts, in a row
	missed   error         // of the last look at the repository
	misses   int           // in a row
	asked    bool          // Apply was called and is not answered yet
	unblock  bool          // it asks also for what failed before
	told     wire.Update   // ID and State of the last progress that was reported
	extra    int64         // bytes that Apply allowed
	due      time.Duration // uptime of the next look
	since    time.Duration // uptime at which the state was entered, in this life of the process

	// Of the goroutine that calls Run.
	fresh   bool  // the repository was refreshed for the release under way
	counted int64 // of Fetched, what has been ascribed to an update
	got     int   // chunks that have not
}

// New checks c and takes up the record. A damaged record is reported and begun
// anew; what the slots hold decides how it goes on.
func New(c Config) (*Engine, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("make update engine: %w", err)
	}
	e := &Engine{cfg: c, log: c.Log.With("part", "update"), wake: make(chan struct{}, 1)}
	e.acts = e.table()
	if err := e.load(); err != nil {
		return nil, fmt.Errorf("make update engine: %w", err)
	}
	// After a power failure not the whole fleet asks at once.
	e.due = c.Uptime() + time.Duration(c.Rand()*float64(c.Every)/10)
	e.counted = c.Fetched()
	return e, nil
}

func (c *Config) check() error {
	p := c.Patience
	switch {
	case c.FS == nil, c.Dir == "", c.Repo == nil, c.Installer == nil, c.Chunks == nil, c.Fetched == nil:
		return errors.New("configuration: FS, Dir, Repo, Installer, Chunks and Fetched are required")
	case c.Condition == nil, c.Report == nil, c.Uptime == nil, c.Now == nil, c.Rand == nil, c.Log == nil:
		return errors.New("configuration: Condition, Report, Uptime, Now, Rand and Log are required")
	case c.Budget <= 0, c.Every <= 0, c.Settle <= 0:
		return errors.New("configuration: Budget, Every and Settle must be above 0")
	case p.Retry <= 0, p.MaxRest < p.Retry, p.Tries <= 0, p.Reboot <= 0, p.Look <= 0, p.Chunk <= 0:
		return errors.New("configuration: Patience is incomplete")
	}
	return nil
}
