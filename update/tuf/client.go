package tuf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/gatewarden/gatewarden/internal/fsx"
)

// Fetcher gets files of a repository.
type Fetcher interface {
	// Fetch opens the file of this name, a relative URL, escaped. An error that
	// wraps ErrNoFile says that there is none. No more than limit+1 bytes will be
	// read; how slow they may come is the Fetcher's to decide.
	Fetch(ctx context.Context, name string, limit int64) (io.ReadCloser, error)
}

// Config is what a Client needs. Only Targets may be left out.
type Config struct {
	FS *fsx.FS
	// Dir keeps the metadata that was verified: <role>.json, with the role's name
	// escaped, and each root under roots/. It belongs to this repository alone, and
	// only whoever may change what the device trusts may write to it.
	Dir string
	// Root is the pinned root.json. A newer one in Dir takes its place.
	Root     []byte
	Metadata Fetcher
	Targets  Fetcher // needed for Download
	// Now is the time against which a Refresh checks expiry, asked once at its start.
	Now func() time.Time
}

// Client follows a repository. It is not safe for concurrent use, neither are two
// of them with one Dir.
type Client struct {
	cfg  Config
	set  *Set   // of the last Refresh, nil if it failed
	used Bundle // files that set was built from
}

// New returns a Client, without reading or fetching anything but cfg.Root.
func New(cfg Config) (*Client, error) {
	if cfg.FS == nil || cfg.Dir == "" || cfg.Metadata == nil || cfg.Now == nil {
		return nil, errors.New("make TUF client: FS, Dir, Metadata and Now are needed")
	}
	if _, err := NewSet(cfg.Root, cfg.Now()); err != nil {
		return nil, fmt.Errorf("read pinned root: %w", err)
	}
	return &Client{cfg: cfg}, nil
}

// Refresh brings the top-level metadata up to date (sections 5.1 to 5.6). Each
// file is stored as soon as it is verified and before the next one is asked for.
// When it fails, no target can be had until one succeeds.
func (c *Client) Refresh(ctx context.Context) error {
	c.set, c.used = nil, make(Bundle)
	set, err := c.start()
	if err != nil {
		return err
	}
	if err := c.roots(ctx, set); err != nil {
		return err
	}
	for _, role := range []string{Timestamp, Snapshot, Targets} {
		if err := c.load(ctx, set, Delegation{Root, role}); err != nil {
			return err
		}
	}
	c.set = set
	return nil
}

// start takes the stored root if it is good and newer, else the pinned one.
func (c *Client) start() (*Set, error) {
	now := c.cfg.Now()
	pinned, err := NewSet(c.cfg.Root, now)
	if err != nil {
		return nil, err
	}
	data, err := c.stored(Root)
	if err != nil || data == nil {
		return pinned, err
	}
	stored, err := NewSet(data, now)
	if err != nil || stored.RootVersion() <= pinned.RootVersion() {
		return pinned, nil
	}
	return stored, nil
}

// roots follows the chain of roots to its end (5.3).
func (c *Client) roots(ctx context.Context, set *Set) error {
	for range MaxRootSteps {
		name, limit, err := set.File(Root)
		if err != nil {
			return err
		}
		data, err := c.fetch(ctx, Root, name, limit)
		if errors.Is(err, ErrNoFile) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := set.UpdateRoot(data); err != nil {
			return err
		}
		if err := c.storeRoot(set, data); err != nil {
			return fmt.Errorf("store root: %w", err)
		}
	}
	return nil
}

// storeRoot forgets before it remembers: were the root stored first, a power cut
// could leave files behind that the next start has no reason to forget.
func (c *Client) storeRoot(set *Set, data []byte) error {
	if set.Rotated() {
		for _, role := range []string{Timestamp, Snapshot} {
			if err := c.cfg.FS.Remove(c.path(role)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	if err := c.cfg.FS.MkdirAll(filepath.Join(c.cfg.Dir, "roots"), 0o755); err != nil {
		return err
	}
	if err := c.cfg.FS.WriteFile(c.rootPath(set.RootVersion()), data, 0o644); err != nil {
		return err
	}
	return c.store(Root, data)
}

// load brings in the file of a role: the stored one if it will do, else the
// repository's.
func (c *Client) load(ctx context.Context, set *Set, d Delegation) error {
	name, limit, err := set.File(d.Role)
	if err != nil {
		return err
	}
	stored, err := c.stored(d.Role)
	if err != nil {
		return err
	}
	if stored != nil && set.Load(d, stored) {
		c.used[name] = stored
		return nil
	}
	data, err := c.fetch(ctx, d.Role, name, limit)
	if err != nil {
		return err
	}
	taken, err := set.Update(d, data)
	if err != nil {
		return err
	}
	if !taken {
		c.used[name] = stored
		return nil
	}
	c.used[name] = data
	return c.store(d.Role, data)
}

// Target looks a target up, in the state of the repository that Refresh found,
// and loads the delegated roles that it takes (5.6.7).
func (c *Client) Target(ctx context.Context, path string) (Target, error) {
	if c.set == nil {
		return Target{}, fmt.Errorf("look up %.80q: there was no successful refresh", path)
	}
	for {
		target, missing, err := c.set.Lookup(path)
		if missing == nil || err != nil {
			return target, err
		}
		if err := c.load(ctx, c.set, *missing); err != nil {
			return Target{}, err
		}
	}
}

// Root is version and end of the root by which the last Refresh, which succeeded, went.
func (c *Client) Root() (version int64, end time.Time) { return c.set.root.version, c.set.root.expires }

// Paths lists, sorted, what the targets roles name that were loaded so far. Which
// of them may speak for a path is for Target to say.
func (c *Client) Paths() []string {
	paths := make(map[string]bool)
	if c.set != nil {
		for _, file := range c.set.targets {
			for path := range file.targets {
				paths[path] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(paths))
}

// Download writes the target to w (5.7). After an error w holds nothing that may
// be used.
func (c *Client) Download(ctx context.Context, target Target, w io.Writer) error {
	if c.cfg.Targets == nil || c.set == nil {
		return fmt.Errorf("download %.80q: no fetcher, or no successful refresh", target.path)
	}
	body, err := c.cfg.Targets.Fetch(ctx, target.file(c.set.root.consistent), target.Length())
	if err != nil {
		return fmt.Errorf("fetch %.80q: %w", target.path, err)
	}
	defer body.Close()
	return target.copy(w, body)
}

// fetch gets a metadata file of the repository.
func (c *Client) fetch(ctx context.Context, role, name string, limit int64) ([]byte, error) {
	body, err := c.cfg.Metadata.Fetch(ctx, name, limit)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", name, err)
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, refuse(role, "limit", "%s has more than %d bytes", name, limit)
	}
	return data, nil
}

// stored reads the file of a role, nil if there is none or it is damaged: the
// repository has it too.
func (c *Client) stored(role string) ([]byte, error) {
	data, err := c.cfg.FS.ReadFile(c.path(role), MaxTargets)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fsx.ErrDamaged) {
		return nil, nil
	}
	return data, err
}

func (c *Client) store(role string, data []byte) error {
	if err := c.cfg.FS.MkdirAll(c.cfg.Dir, 0o755); err != nil {
		return err
	}
	return c.cfg.FS.WriteFile(c.path(role), data, 0o644)
}

func (c *Client) path(role string) string { return filepath.Join(c.cfg.Dir, fileName(role)) }

func (c *Client) rootPath(version int64) string {
	return filepath.Join(c.cfg.Dir, "roots", strconv.FormatInt(version, 10)+".root.json")
}

// fileName escapes a role's name: no two of them give one file name, and none
// leaves the folder.
func fileName(role string) string { return url.PathEscape(role) + ".json" }
