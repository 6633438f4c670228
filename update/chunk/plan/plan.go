// Package plan decides where each chunk of a new image comes from, and brings them
// together: those that the spare slot holds already stay, those that a seed holds,
// such as the running slot, are copied, and only the rest is fetched, each once.
//
// Its promise: no chunk is fetched that lies in the spare slot or in a seed, none is
// written that is in place, and a run fetches no more than the plan announced,
// plus Slack. There is no state on disk besides the spare slot itself: after a
// power cut Examine finds what had been written.
package plan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/gatewarden/gatewarden/update/chunk"
)

// ErrSeed says that seeds held other bytes than their index said and that more
// would have to be fetched than was announced. Index the seed anew (cut.Index)
// and plan again.
var ErrSeed = errors.New("seed differs from its index")

// Seed is an image on this device that may hold chunks of the new one. What is
// read from it is checked: neither index nor data need be trusted.
type Seed struct {
	Index *chunk.Index
	Data  io.ReaderAt
}

// Config is what a plan is made of.
type Config struct {
	Target *chunk.Index
	// InPlace says for each chunk of Target whether the spare slot holds it; Examine
	// finds that out.
	InPlace []bool
	// Spare is the slot that is written. It may be nil if this process can't read it:
	// a chunk that is in place once and wanted elsewhere too is fetched then.
	Spare io.ReaderAt
	Seeds []Seed // may be empty
	// Slack is how many uncompressed bytes may be fetched beyond the announced
	// ones because a seed turned out to be damaged. 0 stops at the first.
	Slack int64
}

// Plan is where the chunks of one image come from. It is for one goroutine.
type Plan struct {
	cfg   Config
	steps []step
	need  Need
}

// step is one chunk that is got once and put at some places.
type step struct {
	first int32 // the lowest numbered of its places that are not in place
	from  int32 // which source: fetch, spare, or the number of a seed
	at    int32 // number of the chunk in that source
}

const (
	fetch = -1
	spare = -2
)

// Need is what a plan costs, in chunks and uncompressed bytes.
type Need struct {
	Total, InPlace, Copy, Fetch Count
}

// Count is a number of chunks, and their uncompressed bytes together. A chunk
// that is wanted at several places counts once in Fetch and Copy, for each place in
// the others.
type Count struct {
	Chunks int
	Bytes  int64
}

func (c *Count) add(size int) {
	c.Chunks++
	c.Bytes += int64(size)
}

// Examine says which chunks of target lie in place in spare, reading it whole, on
// up to two processors.
func Examine(ctx context.Context, target *chunk.Index, spare io.ReaderAt) ([]bool, error) {
	in := make([]bool, target.Len())
	parts := min(2, runtime.GOMAXPROCS(0), len(in))
	g, ctx := errgroup.WithContext(ctx)
	for p := range parts {
		g.Go(func() error {
			return target.Scan(ctx, spare, len(in)*p/parts, len(in)*(p+1)/parts, func(i int, ok bool) error {
				in[i] = ok
				return nil
			})
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("examine slot: %w", err)
	}
	return in, nil
}

// New makes a plan. It reads no image.
func New(cfg Config) (*Plan, error) {
	if cfg.Target == nil || len(cfg.InPlace) != cfg.Target.Len() || cfg.Slack < 0 {
		return nil, fmt.Errorf("plan image: target, one InPlace per chunk and Slack >= 0 are required")
	}
	for i, s := range cfg.Seeds {
		if s.Index == nil || s.Data == nil {
			return nil, fmt.Errorf("plan image: seed %d lacks index or data", i)
		}
		if s.Index.Algorithm() != cfg.Target.Algorithm() {
			return nil, fmt.Errorf("plan image: seed %d has %s digests, the target %s", i, s.Index.Algorithm(), cfg.Target.Algorithm())
		}
	}
	cfg.InPlace = slices.Clone(cfg.InPlace)
	p := &Plan{cfg: cfg}
	p.lay()
	return p, nil
}

// lay makes the steps and counts.
func (p *Plan) lay() {
	seen := make([]bool, p.cfg.Target.Len())
	for i, in := range p.cfg.InPlace {
		c := p.cfg.Target.At(i)
		p.need.Total.add(c.Size)
		if in {
			p.need.InPlace.add(c.Size)
		}
		if in || seen[i] {
			continue
		}
		for _, same := range p.cfg.Target.Find(c.ID) {
			seen[same] = true
		}
		s := p.source(c)
		s.first = int32(i)
		p.steps = append(p.steps, s)
		if s.from == fetch {
			p.need.Fetch.add(c.Size)
		} else {
			p.need.Copy.add(c.Size)
		}
	}
}

// places returns where id is wanted and not in place.
func (p *Plan) places(id chunk.ID) []int32 {
	var out []int32
	for _, i := range p.cfg.Target.Find(id) {
		if !p.cfg.InPlace[i] {
			out = append(out, i)
		}
	}
	return out
}

func (p *Plan) source(c chunk.Chunk) step {
	if p.cfg.Spare != nil {
		for _, i := range p.cfg.Target.Find(c.ID) {
			if p.cfg.InPlace[i] {
				return step{from: spare, at: i}
			}
		}
	}
	for k, s := range p.cfg.Seeds {
		if at := s.Index.Find(c.ID); len(at) > 0 && s.Index.At(int(at[0])).Size == c.Size {
			return step{from: int32(k), at: at[0]}
		}
	}
	return step{from: fetch}
}

// Need returns what the plan costs. Fetch is an upper bound of what comes over the
// network, which carries compressed chunks.
func (p *Plan) Need() Need { return p.need }
