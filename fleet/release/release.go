// Package release authors the owner's update repository: keys, releases, policy
// documents, and what is served of them.
//
// Its promise: what Publish put into the served folder is a repository that a
// device accepts, whether it is new or followed the folder before; a step that was
// cut short can be done again, and the same inputs give the same files. Nothing
// that a device would refuse is published.
//
// A release goes through three steps, which may happen on three machines that share
// the author's folder: Build (chunks, index, reference values, PCR policies), Sign
// (the roles targets and releases), Publish (snapshot, timestamp, copy). A key that
// a step does not need may be away.
package release

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/update/chunk"
)

// The roles of the repository. Releases is delegated by Targets.
const (
	Root      = "root"
	Targets   = "targets"
	Releases  = "releases"
	Snapshot  = "snapshot"
	Timestamp = "timestamp"
)

// Config says where a repository is authored. Keys may be left out.
type Config struct {
	FS  *fsx.FS
	Dir string // the author's folder
	// Keys are folders with private keys, looked through in this order; new keys go
	// into the first. By default Dir/keys.
	Keys []string
	Now  func() time.Time
}

// Repo is an author's folder. It is not safe for concurrent use, neither are two of
// them with one Dir.
type Repo struct {
	cfg Config
	set settings
}

// Lives say for how many days a signed file is good.
type Lives struct {
	Root      int `json:"root"`
	Targets   int `json:"targets"`
	Releases  int `json:"releases"`
	Snapshot  int `json:"snapshot"`
	Timestamp int `json:"timestamp"`
}

// DefaultLives leave an owner a week to renew the timestamp, and a year for what
// needs keys that are off line.
func DefaultLives() Lives {
	return Lives{Root: 400, Targets: 400, Releases: 400, Snapshot: 30, Timestamp: 7}
}

func (l Lives) of(role string) time.Duration {
	days := map[string]int{Root: l.Root, Targets: l.Targets, Releases: l.Releases, Snapshot: l.Snapshot, Timestamp: l.Timestamp}
	return time.Duration(days[role]) * 24 * time.Hour
}

func (l Lives) check() error {
	for _, days := range []int{l.Root, l.Targets, l.Releases, l.Snapshot, l.Timestamp} {
		if days < 1 || days > maxDays {
			return fmt.Errorf("lives are %+v, each must be 1 to %d days", l, maxDays)
		}
	}
	return nil
}

// settings is repo.json, written last by Init: a folder with it is complete.
type settings struct {
	Format   int                `json:"v"`
	Lives    Lives              `json:"lives_days"`
	Digest   string             `json:"digest,omitempty"` // of chunks, for the repository's life: other ones have none in common; absent where it is casync's default
	Products map[string]product `json:"products"`
}

// product has the fingerprints of its PCR-policy keys, the one that devices seal to
// first; the others are being replaced by it.
type product struct {
	Keys    []string `json:"pcr_keys"`
	Dropped []string `json:"dropped_keys,omitempty"`
	Made    int      `json:"made"` // keys that there ever were
}

const formatVersion = 1

// InitOptions describe a new repository.
type InitOptions struct {
	Products  []string // each gets a PCR-policy key
	RootKeys  int      // how many keys the root has
	Threshold int      // how many of them must sign
	Lives     Lives
}

// DefaultInit is a root of which two of three keys must sign.
func DefaultInit(products ...string) InitOptions {
	return InitOptions{Products: products, RootKeys: 3, Threshold: 2, Lives: DefaultLives()}
}

func (o *InitOptions) check() error {
	switch {
	case len(o.Products) == 0:
		return errors.New("no product is named")
	case o.Threshold < 1 || o.RootKeys < o.Threshold || o.RootKeys > maxRootKeys:
		return fmt.Errorf("%d of %d root keys: the root has 1 to %d keys, and 1 to all of them sign", o.Threshold, o.RootKeys, maxRootKeys)
	}
	for _, product := range o.Products {
		if err := checkWord("product", product); err != nil {
			return err
		}
	}
	return o.Lives.check()
}

func (c *Config) check() error {
	if c.FS == nil || c.Dir == "" || c.Now == nil {
		return errors.New("FS, Dir and Now are needed")
	}
	if len(c.Keys) == 0 {
		c.Keys = []string{filepath.Join(c.Dir, "keys")}
	}
	return nil
}

// Init makes keys and the first metadata in cfg.Dir. An Init that was cut short
// goes on with the keys that it made; over a complete repository it is an error.
func Init(cfg Config, o InitOptions) (*Repo, error) {
	if err := errors.Join(cfg.check(), o.check()); err != nil {
		return nil, fmt.Errorf("make update repository: %w", err)
	}
	r := &Repo{cfg: cfg, set: settings{Format: formatVersion, Lives: o.Lives, Digest: chunk.SHA256.String(), Products: make(map[string]product)}}
	if _, err := cfg.FS.ReadFile(r.path("repo.json"), maxSettings); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("make update repository: there is one in %s already", cfg.Dir)
	}
	for _, dir := range []string{cfg.Dir, r.path("metadata"), r.path("targets")} {
		if err := cfg.FS.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make update repository: %w", err)
		}
	}
	if err := r.begin(o); err != nil {
		return nil, fmt.Errorf("make update repository: %w", err)
	}
	return r, nil
}

func (r *Repo) begin(o InitOptions) error {
	if err := r.firstMetadata(o); err != nil {
		return err
	}
	for _, name := range o.Products {
		if err := r.newPolicyKey(name); err != nil {
			return err
		}
	}
	return r.saveSettings()
}

// algorithm makes the digests of chunks. SHA-256 is an instruction of most processors
// that gateways have; repositories from before go on as they began.
func (r *Repo) algorithm() (chunk.Algorithm, error) {
	if r.set.Digest == "" {
		return chunk.SHA512_256, nil
	}
	return chunk.AlgorithmNamed(r.set.Digest)
}

// Open opens a repository that Init made.
func Open(cfg Config) (*Repo, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("open update repository: %w", err)
	}
	r := &Repo{cfg: cfg}
	err := cfg.FS.ReadJSON(r.path("repo.json"), maxSettings, &r.set)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open update repository: there is none in %s", cfg.Dir)
	}
	if err != nil {
		return nil, fmt.Errorf("open update repository: %w", err)
	}
	if r.set.Format != formatVersion {
		return nil, fmt.Errorf("open update repository: repo.json has format %d, this software reads %d", r.set.Format, formatVersion)
	}
	if err := r.set.Lives.check(); err != nil {
		return nil, fmt.Errorf("open update repository: %w", err)
	}
	return r, nil
}

func (r *Repo) saveSettings() error {
	return r.cfg.FS.WriteJSON(r.path("repo.json"), r.set, 0o644)
}

func (r *Repo) path(parts ...string) string {
	return filepath.Join(append([]string{r.cfg.Dir}, parts...)...)
}

func (r *Repo) expiry(role string) time.Time {
	return r.cfg.Now().UTC().Add(r.set.Lives.of(role)).Truncate(time.Second)
}

func checkWord(key, s string) error {
	const first = "abcdefghijklmnopqrstuvwxyz0123456789"
	if s == "" || len(s) > maxWord || strings.Trim(s, first+"-") != "" || !strings.Contains(first, s[:1]) {
		return fmt.Errorf("%s is %.70q, it must be a name of up to %d of a-z, 0-9 and -", key, s, maxWord)
	}
	return nil
}
