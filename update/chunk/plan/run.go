package plan

import (
	"context"
	"fmt"
	"io"

	"github.com/gatewarden/gatewarden/update/chunk"
)

// Fetcher gets chunks from elsewhere.
type Fetcher interface {
	// Chunk returns the size bytes whose digest is id, valid until the next call.
	Chunk(ctx context.Context, id chunk.ID, size int) ([]byte, error)
}

// Run gets the missing chunks in the order of their first places and hands each to
// put, with its number in the target, once for each of its places. When put has
// returned nil the chunk must survive a power cut, or more than one chunk will be
// fetched again. data is valid during the call. Run ends at the first error.
func (p *Plan) Run(ctx context.Context, from Fetcher, put func(ctx context.Context, i int, data []byte) error) error {
	slack := p.cfg.Slack
	buf := make([]byte, p.cfg.Target.Sizes().Max)
	for _, s := range p.steps {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("get chunk %d: %w", s.first, err)
		}
		c := p.cfg.Target.At(int(s.first))
		data, ok := p.copied(s, buf)
		if !ok {
			if s.from != fetch {
				if slack -= int64(c.Size); slack < 0 {
					return fmt.Errorf("get chunk %d: %w", s.first, ErrSeed)
				}
			}
			var err error
			if data, err = from.Chunk(ctx, c.ID, c.Size); err != nil {
				return fmt.Errorf("get chunk %d: %w", s.first, err)
			}
		}
		for _, i := range p.places(c.ID) {
			if err := put(ctx, int(i), data); err != nil {
				return fmt.Errorf("put chunk %d: %w", i, err)
			}
		}
	}
	return nil
}

// copied reads a step's chunk from this device, if that is where it should be and
// it is whole.
func (p *Plan) copied(s step, buf []byte) ([]byte, bool) {
	var index *chunk.Index
	var data io.ReaderAt
	switch s.from {
	case fetch:
		return nil, false
	case spare:
		index, data = p.cfg.Target, p.cfg.Spare
	default:
		index, data = p.cfg.Seeds[s.from].Index, p.cfg.Seeds[s.from].Data
	}
	size := p.cfg.Target.At(int(s.first)).Size
	return buf[:size], index.Holds(data, int(s.at), buf)
}
