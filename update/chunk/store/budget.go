package store

import (
	"io"
	"sync/atomic"
)

// Budget is how many bytes may still be read from a network. Several places may
// share one; it is safe for concurrent use.
type Budget struct {
	left atomic.Int64
	used atomic.Int64
}

// NewBudget returns a budget of limit bytes.
func NewBudget(limit int64) *Budget {
	b := &Budget{}
	b.left.Store(limit)
	return b
}

// Used is how many bytes were read.
func (b *Budget) Used() int64 { return b.used.Load() }

// take reserves up to n bytes and returns how many.
func (b *Budget) take(n int) int {
	for {
		left := b.left.Load()
		got := min(int64(n), left)
		if got <= 0 {
			return 0
		}
		if b.left.CompareAndSwap(left, left-got) {
			return int(got)
		}
	}
}

// Reader returns r, read against the budget: once that is used up, Read returns
// ErrBudget. Bodies are counted, protocol heads are not.
func (b *Budget) Reader(r io.Reader) io.Reader { return &budgeted{b, r} }

type budgeted struct {
	budget *Budget
	r      io.Reader
}

func (m *budgeted) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	got := m.budget.take(min(len(p), readStep))
	if got == 0 {
		return 0, ErrBudget
	}
	n, err := m.r.Read(p[:got])
	m.budget.left.Add(int64(got - n))
	m.budget.used.Add(int64(n))
	return n, err
}
