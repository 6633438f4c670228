package update

import (
	"context"
	"errors"
	"fmt"

	"github.com/gatewarden/gatewarden/update/chunk"
	"github.com/gatewarden/gatewarden/update/chunk/plan"
	"github.com/gatewarden/gatewarden/update/chunk/store"
)

// source gets chunks from the first of several stores that has them whole, and
// keeps the count of bytes.
type source struct {
	engine *Engine
	stores []*store.Store
	best   int // the one that worked last
}

// open makes a source with what is left of the update's budget.
func (e *Engine) open(a chunk.Algorithm) (*source, error) {
	job := e.job()
	places, err := e.cfg.Chunks(store.NewBudget(job.Budget - job.Fetched - e.uncounted()))
	if err != nil {
		return nil, fmt.Errorf("open chunk stores: %w", err)
	}
	if len(places) == 0 {
		return nil, errors.New("open chunk stores: there is none")
	}
	s := &source{engine: e}
	for _, place := range places {
		one, err := store.New(store.Config{Place: place, Algorithm: a, Timeout: e.cfg.Chunk})
		if err != nil {
			s.Close()
			return nil, err
		}
		s.stores = append(s.stores, one)
	}
	return s, nil
}

// Chunk asks one store after the other. A budget that is used up is so for all.
func (s *source) Chunk(ctx context.Context, id chunk.ID, size int) ([]byte, error) {
	var errs []error
	for i := range s.stores {
		at := (s.best + i) % len(s.stores)
		data, err := s.stores[at].Chunk(ctx, id, size)
		if err == nil {
			s.best = at
			return data, s.engine.gained()
		}
		errs = append(errs, err)
		if errors.Is(err, store.ErrBudget) || ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// Close frees the decoders.
func (s *source) Close() {
	for _, one := range s.stores {
		one.Close()
	}
}

// gained notes a chunk, and from time to time the bytes read, so that a restart
// does not forget more than saveFetched of them.
func (e *Engine) gained() error {
	e.progressed()
	e.mu.Lock()
	e.progress.Fetched++
	e.mu.Unlock()
	e.got++
	if e.uncounted() < saveFetched {
		return nil
	}
	add := e.ascribe()
	return e.change(func(r *Record) { add(r.Now) })
}

// ascribe takes what came in since the last time, and adds it to an update.
func (e *Engine) ascribe() func(*Job) {
	bytes, chunks := e.count(), e.got
	e.got = 0
	return func(j *Job) { j.Fetched, j.Chunks = j.Fetched+bytes, j.Chunks+chunks }
}

// uncounted is how many bytes came in that no record ascribes to an update yet.
func (e *Engine) uncounted() int64 { return e.cfg.Fetched() - e.counted }

// count takes them.
func (e *Engine) count() int64 {
	n := e.uncounted()
	e.counted += n
	return n
}

var _ plan.Fetcher = (*source)(nil)
