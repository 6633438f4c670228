package registry

import (
	"context"
	"database/sql"
	"runtime"
	"sync"
)

// maxBatch is how many callers share a commit, count.
const maxBatch = 256

// batch lets callers that come at the same time share one commit, which is what
// takes long. Whoever comes while none is under way leads: it lets those go first
// who are ready to run, and takes along all who came until the database is free.
// Safe for concurrent use.
type batch struct {
	mu      sync.Mutex
	waiting []*job
	leading bool
}

// job is the part of one caller. It may run again after a rollback.
type job struct {
	run  func(ctx context.Context, tx *sql.Tx) error
	err  error
	lead bool          // set before turn closes: the commit is still to be made, by this one
	turn chan struct{} // closed when there is an answer, or the lead
}

// writeShared is write in a transaction that others may share. One that fails
// changes nothing, and fails no other.
func (s *Store) writeShared(ctx context.Context, f func(ctx context.Context, tx *sql.Tx) error) error {
	j := &job{run: f, turn: make(chan struct{})}
	b := &s.batch
	b.mu.Lock()
	b.waiting = append(b.waiting, j)
	lead := !b.leading
	b.leading = true
	b.mu.Unlock()
	if !lead {
		<-j.turn
		if !j.lead {
			return j.err
		}
	}
	s.commit(context.WithoutCancel(ctx), j)
	return j.err
}

// commit runs the jobs that wait, own among them, and hands the lead on.
func (s *Store) commit(ctx context.Context, own *job) {
	// Where the processors are the bound, those who come at the same time are ready
	// to run, not yet here: without them, commits on a quick disk hold one or two
	// jobs each and cost more than the jobs.
	runtime.Gosched()
	var jobs []*job
	err := s.write(ctx, func(tx *sql.Tx) error {
		jobs = s.batch.take()
		for _, j := range jobs {
			if err := j.run(ctx, tx); err != nil {
				return err
			}
		}
		return nil
	})
	if jobs == nil { // the transaction did not even begin
		jobs = s.batch.take()
		for _, j := range jobs {
			j.err = err
		}
	} else if err != nil {
		// One of them failed: each for itself, so that it fails no other.
		for _, j := range jobs {
			j.err = s.write(ctx, func(tx *sql.Tx) error { return j.run(ctx, tx) })
		}
	}
	s.batch.handOn()
	for _, j := range jobs {
		if j != own {
			close(j.turn)
		}
	}
}

// take returns who waits, the leader first.
func (b *batch) take() []*job {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(b.waiting), maxBatch)
	jobs := b.waiting[:n:n]
	b.waiting = b.waiting[n:]
	return jobs
}

func (b *batch) handOn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.leading = len(b.waiting) > 0; b.leading {
		b.waiting[0].lead = true
		close(b.waiting[0].turn)
	}
}
