package release

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/update/chunk"
	"github.com/gatewarden/gatewarden/update/release"
	"github.com/gatewarden/gatewarden/update/tuf"
)

// folder gives the author's metadata or targets as devices will ask for them.
type folder struct {
	r    *Repo
	name string
}

func (f folder) Fetch(_ context.Context, name string, limit int64) (io.ReadCloser, error) {
	name, err := url.PathUnescape(name)
	if err != nil || !filepath.IsLocal(name) {
		return nil, fmt.Errorf("%q: %w", name, tuf.ErrNoFile)
	}
	data, err := f.r.cfg.FS.ReadFile(f.r.path(f.name, filepath.FromSlash(name)), limit)
	if errors.Is(err, fs.ErrNotExist) {
		err = tuf.ErrNoFile
	}
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// verify looks at the repository with the eyes of a device that is new and pinned
// the first root, and of one that knows what is served now.
func (r *Repo) verify(ctx context.Context, to string) error {
	fresh, err := os.MkdirTemp("", "gatewarden-verify-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(fresh)
	pinned, err := r.cfg.FS.ReadFile(r.path("metadata", fileName(Root, 1)), maxMetadata)
	if err != nil {
		return fmt.Errorf("read first root: %w", err)
	}
	if err := r.verifyAs(ctx, filepath.Join(fresh, "new"), pinned); err != nil {
		return fmt.Errorf("a new device would refuse this: %w", err)
	}
	follower := filepath.Join(fresh, "old")
	known, err := r.remember(to, follower)
	if err != nil {
		return err
	}
	if known != nil {
		if err := r.verifyAs(ctx, follower, known); err != nil {
			return fmt.Errorf("a device that knows what is served now would refuse this: %w", err)
		}
	}
	return nil
}

// remember puts the files of the served folder where a device that saw them keeps
// them, and returns the root of that device, nil if nothing is served yet.
func (r *Repo) remember(from, dir string) ([]byte, error) {
	data, err := r.cfg.FS.ReadFile(filepath.Join(from, "metadata", "timestamp.json"), maxMetadata)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	there := &Repo{cfg: Config{FS: r.cfg.FS, Dir: from}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	var root []byte
	for _, role := range []string{Timestamp, Snapshot, Targets, Releases, Root} {
		if role != Timestamp {
			if data, _, err = there.read(role); err != nil {
				return nil, fmt.Errorf("read what is served: %w", err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, role+".json"), data, 0o600); err != nil {
			return nil, err
		}
		root = data
	}
	return root, nil
}

func (r *Repo) verifyAs(ctx context.Context, dir string, root []byte) error {
	client, err := tuf.New(tuf.Config{FS: r.cfg.FS, Dir: dir, Root: root, Metadata: folder{r, "metadata"}, Targets: folder{r, "targets"}, Now: r.cfg.Now})
	if err != nil {
		return err
	}
	if err := client.Refresh(ctx); err != nil {
		return err
	}
	for _, role := range []string{Targets, Releases} {
		all, err := r.entries(role)
		if err != nil {
			return err
		}
		for _, name := range sortedKeys(all) {
			target, err := client.Target(ctx, name)
			if err != nil {
				return fmt.Errorf("target %s: %w", name, err)
			}
			if target.Role() != role {
				return fmt.Errorf("target %s: %s speaks for it, not %s", name, target.Role(), role)
			}
			if err := client.Download(ctx, target, io.Discard); err != nil {
				return err
			}
			if role == Releases && strings.HasSuffix(name, ".json") {
				if err := r.verifyRelease(ctx, client, target); err != nil {
					return fmt.Errorf("target %s: %w", name, err)
				}
			}
		}
	}
	list, err := r.List()
	if err != nil {
		return err
	}
	return checkEpochs(list)
}

// verifyRelease checks what the installer will check, and what secrets need.
func (r *Repo) verifyRelease(ctx context.Context, client *tuf.Client, target tuf.Target) error {
	rel, err := release.Parse(target.Custom())
	if err != nil {
		return err
	}
	if want := targetOf(rel); want != target.Path() {
		return fmt.Errorf("it is release %s, whose place is %s", rel.Name(), want)
	}
	for _, image := range rel.Images {
		about, err := client.Target(ctx, image.Index)
		if err != nil {
			return fmt.Errorf("index %s: %w", image.Index, err)
		}
		if about.Length() > chunk.MaxIndex {
			return fmt.Errorf("index %s: %d bytes, at most %d are allowed", image.Index, about.Length(), chunk.MaxIndex)
		}
	}
	if _, err := referencesOf(rel); err != nil {
		return fmt.Errorf("reference values: %w", err)
	}
	return r.checkPolicies(rel)
}

// image is an image of a release with its index.
type image struct {
	about release.Image
	index *chunk.Index
}

// images are those of all releases.
func (r *Repo) images() ([]image, error) {
	list, err := r.List()
	if err != nil {
		return nil, err
	}
	all, err := r.entries(Releases)
	if err != nil {
		return nil, err
	}
	var images []image
	for _, rel := range list {
		for _, about := range rel.Images {
			data, err := r.content(about.Index, all[about.Index])
			if err != nil {
				return nil, err
			}
			index, err := chunk.Parse(data)
			if err != nil {
				return nil, fmt.Errorf("read index %s: %w", about.Index, err)
			}
			if index.Size() != about.Size {
				return nil, fmt.Errorf("read index %s: it is of %d bytes, the release says %d", about.Index, index.Size(), about.Size)
			}
			images = append(images, image{about, index})
		}
	}
	return images, nil
}

// publicPolicyKeys reads the target with a product's PCR-policy keys.
func (r *Repo) publicPolicyKeys(product string) (map[release.Digest]any, error) {
	all, err := r.entries(Targets)
	if err != nil {
		return nil, err
	}
	name := policyKeysPath(product)
	e, ok := all[name]
	if !ok {
		return nil, fmt.Errorf("there is no target %s", name)
	}
	data, err := r.content(name, e)
	if err != nil {
		return nil, err
	}
	keys := make(map[release.Digest]any)
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		key, err := tpmpolicy.ParseKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		id, err := tpmpolicy.Fingerprint(key)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		keys[release.Digest(id)] = key
	}
	return keys, nil
}

var _ tuf.Fetcher = folder{}
