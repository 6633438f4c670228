// Package pack makes the chunk index and the chunk store of an image. It is for
// the owner's side: a device neither cuts nor compresses what it publishes.
//
// Its promise: when Pack has returned nil, every chunk of the index lies in the
// store, whole and durable, and `casync extract` rebuilds the image from the two.
// A Pack that was cut short may be done again over its remains.
package pack

import (
	"context"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/update/chunk"
	"github.com/gatewarden/gatewarden/update/chunk/cut"
)

// Config is what Pack needs. All fields are required but Progress.
type Config struct {
	Image     io.Reader
	Size      int64           // bytes that Image must have, no more and no less
	Store     string          // folder of the chunk store; made if it is missing
	Sizes     chunk.Sizes     // chunk.SizesFor(Size) unless there is a reason
	Algorithm chunk.Algorithm // chunk.SHA512_256 unless there is a reason
	FS        *fsx.FS
	Workers   int // compressing at once, each with about 4 MiB
	// Progress is told, never concurrently, how many bytes of the image are done.
	Progress func(done, total int64)
}

// Result is a packed image.
type Result struct {
	Index  *chunk.Index
	Chunks int   // different ones
	Added  int   // of them, not in the store before
	Packed int64 // bytes of the added ones, compressed
}

// Pack cuts the image, adds to the store what it lacks, and returns the index.
// Chunks that are in the store already are read and replaced if damaged.
func Pack(ctx context.Context, cfg Config) (*Result, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if err := cfg.FS.MkdirAll(cfg.Store, 0o755); err != nil {
		return nil, fmt.Errorf("make chunk store: %w", err)
	}
	p := &packer{cfg: cfg, seen: make(map[chunk.ID]bool), jobs: make(chan job)}
	g, ctx := errgroup.WithContext(ctx)
	for range cfg.Workers {
		g.Go(func() error { return p.work(ctx) })
	}
	var index *chunk.Index
	g.Go(func() (err error) {
		defer close(p.jobs)
		index, err = p.cut(ctx)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("pack image: %w", err)
	}
	p.result.Index, p.result.Chunks = index, len(p.seen)
	return &p.result, nil
}

func (c *Config) check() error {
	if c.Image == nil || c.Store == "" || c.FS == nil || !c.Algorithm.Valid() {
		return fmt.Errorf("pack image: image, store, digest algorithm and file system are required")
	}
	if c.Size < 1 || c.Workers < 1 {
		return fmt.Errorf("pack image: size %d and workers %d must be positive", c.Size, c.Workers)
	}
	return nil
}

type job struct {
	id   chunk.ID
	data []byte // from the pool, nil for a chunk that another job has
	size int
}

type packer struct {
	cfg  Config
	seen map[chunk.ID]bool // the cutting goroutine's
	jobs chan job
	pool sync.Pool

	mu     sync.Mutex
	done   int64
	result Result
}

// cut reads the image and hands out each new chunk.
func (p *packer) cut(ctx context.Context) (*chunk.Index, error) {
	b, err := chunk.NewBuilder(p.cfg.Algorithm, p.cfg.Sizes)
	if err != nil {
		return nil, err
	}
	c, err := cut.New(io.LimitReader(p.cfg.Image, p.cfg.Size+1), p.cfg.Sizes)
	if err != nil {
		return nil, err
	}
	for left := p.cfg.Size; ; {
		data, err := c.Next()
		if err == io.EOF {
			if left != 0 {
				return nil, fmt.Errorf("read image: it ends %d bytes short of %d", left, p.cfg.Size)
			}
			return b.Index()
		}
		if err != nil {
			return nil, err
		}
		if left -= int64(len(data)); left < 0 {
			return nil, fmt.Errorf("read image: it is longer than %d bytes", p.cfg.Size)
		}
		j := job{id: p.cfg.Algorithm.Sum(data), size: len(data)}
		if err := b.Add(j.id, j.size); err != nil {
			return nil, err
		}
		if !p.seen[j.id] {
			p.seen[j.id] = true
			j.data = append(p.buffer(), data...)
		}
		select {
		case p.jobs <- j:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (p *packer) buffer() []byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, p.cfg.Sizes.Max)
}

// work stores chunks until there are no more.
func (p *packer) work(ctx context.Context) error {
	w, err := newWriter(p.cfg)
	if err != nil {
		return err
	}
	defer w.close()
	for {
		var j job
		var more bool
		select {
		case j, more = <-p.jobs:
		case <-ctx.Done():
			return ctx.Err()
		}
		if !more {
			return nil
		}
		packed := 0
		if j.data != nil {
			if packed, err = w.put(ctx, j); err != nil {
				return err
			}
			p.pool.Put(&j.data)
		}
		p.report(j.size, packed)
	}
}

func (p *packer) report(size, packed int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += int64(size)
	if packed > 0 {
		p.result.Added++
		p.result.Packed += int64(packed)
	}
	if p.cfg.Progress != nil {
		p.cfg.Progress(p.done, p.cfg.Size)
	}
}
