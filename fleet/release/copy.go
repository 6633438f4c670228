package release

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"time"

	"github.com/gatewarden/gatewarden/update/chunk"
	"github.com/gatewarden/gatewarden/update/chunk/store"
	"github.com/gatewarden/gatewarden/update/release"
)

// readTimeout is how long reading one stored chunk may take.
const readTimeout = time.Minute

// copyChunks copies the chunks of images that the served folder does not have whole.
// Each is unpacked and checked on the way, and so is the whole image.
func (r *Repo) copyChunks(ctx context.Context, o PublishOptions, done *Published) error {
	images, err := r.images()
	if err != nil {
		return err
	}
	var total, at int64
	todo := images[:0]
	for _, m := range images {
		if !r.served(o.To, m.index) {
			todo = append(todo, m)
			total += int64(m.index.Len())
		}
	}
	for _, m := range todo {
		c, err := r.openCopier(o.To, m)
		if err != nil {
			return err
		}
		err = c.run(ctx, done, func() {
			if at++; o.Progress != nil {
				o.Progress(at, total)
			}
		})
		c.close()
		if err != nil {
			return fmt.Errorf("copy chunks of %s: %w", m.about.Name, err)
		}
	}
	return nil
}

// served says whether a folder holds a file for every chunk of an index. Chunks are
// checked before they come there, and by every device.
func (r *Repo) served(to string, index *chunk.Index) bool {
	for i := range index.Len() {
		path := filepath.Join(to, "chunks", filepath.FromSlash(index.At(i).ID.Path()))
		if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
			return false
		}
	}
	return true
}

// copier copies the chunks of one image.
type copier struct {
	r     *Repo
	to    string
	image image
	store *store.Store
	whole hash.Hash
}

func (r *Repo) openCopier(to string, m image) (*copier, error) {
	place, err := store.Dir(r.cfg.FS, r.path("chunks"))
	if err != nil {
		return nil, err
	}
	s, err := store.New(store.Config{Place: place, Algorithm: m.index.Algorithm(), Timeout: readTimeout})
	if err != nil {
		return nil, err
	}
	return &copier{r: r, to: to, image: m, store: s, whole: sha256.New()}, nil
}

func (c *copier) close() { c.store.Close() }

func (c *copier) run(ctx context.Context, done *Published, step func()) error {
	for i := range c.image.index.Len() {
		one := c.image.index.At(i)
		data, err := c.store.Chunk(ctx, one.ID, one.Size)
		if err != nil {
			return fmt.Errorf("chunk %s: %w", one.ID, err)
		}
		c.whole.Write(data)
		if err := c.copy(one.ID, done); err != nil {
			return err
		}
		step()
	}
	if got := release.Digest(c.whole.Sum(nil)); got != c.image.about.SHA256 {
		return fmt.Errorf("the chunks give an image with SHA-256 %s, the release says %s", got, c.image.about.SHA256)
	}
	return nil
}

func (c *copier) copy(id chunk.ID, done *Published) error {
	name := filepath.Join("chunks", filepath.FromSlash(id.Path()))
	data, err := c.r.cfg.FS.ReadFile(c.r.path(name), 2*chunk.MaxChunk)
	if err != nil {
		return err
	}
	before := done.Files
	err = c.r.copyFile(c.to, name, data, done)
	done.Chunks += done.Files - before
	done.Files = before
	return err
}
