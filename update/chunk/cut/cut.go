// Package cut divides bytes into chunks where their content says so, with the
// rule of casync, so that equal content gives equal chunks wherever it lies.
//
// Its promise: the same bytes and sizes give the chunks that `casync make` gives,
// on every machine, in memory that does not grow with the input.
package cut

import (
	"context"
	"fmt"
	"io"
	"math/bits"

	"github.com/gatewarden/gatewarden/update/chunk"
)

const window = chunk.MinWindow

// Cutter cuts what it reads into chunks. It is for one goroutine.
type Cutter struct {
	r     io.Reader
	sizes chunk.Sizes
	rule  rule
	buf   []byte
	from  int // buf[from:to] is read and not yet cut off
	to    int
	eof   bool
}

// New returns a Cutter that reads r.
func New(r io.Reader, sizes chunk.Sizes) (*Cutter, error) {
	if err := sizes.Check(); err != nil {
		return nil, err
	}
	if sizes.Min < window {
		return nil, fmt.Errorf("check chunk sizes: min %d, the cut rule needs %d", sizes.Min, window)
	}
	if r == nil {
		return nil, fmt.Errorf("make cutter: no reader")
	}
	return &Cutter{r: r, sizes: sizes, rule: newRule(sizes), buf: make([]byte, 4*sizes.Max)}, nil
}

// Next returns the next chunk, valid until the next call, and io.EOF after the
// last one.
func (c *Cutter) Next() ([]byte, error) {
	if err := c.fill(); err != nil {
		return nil, fmt.Errorf("read image: %w", err)
	}
	data := c.buf[c.from:min(c.to, c.from+c.sizes.Max)]
	if len(data) == 0 {
		return nil, io.EOF
	}
	n := c.rule.cut(data, c.sizes)
	c.from += n
	return data[:n:n], nil
}

// fill reads until there is a chunk's worth, or the end.
func (c *Cutter) fill() error {
	if c.eof || c.to-c.from >= c.sizes.Max {
		return nil
	}
	c.to = copy(c.buf, c.buf[c.from:c.to])
	c.from = 0
	n, err := io.ReadFull(c.r, c.buf[c.to:])
	c.to += n
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		c.eof, err = true, nil
	}
	return err
}

// rule cuts after a byte where hash mod d = d-1, hash being that of the last 48
// bytes. d divides hash+1 exactly if (hash+1) * inverse, modulo 2^64, is below
// inverse, which is ceil(2^64 / d): one multiplication instead of a division.
// Lemire, Kaser, Kurz, "Faster remainder by direct computation", 2019, section 3.
type rule struct {
	table   [256]uint32
	leaving [256]uint32 // table, rotated as often as a byte's share is while it is in the window
	inverse uint64
}

func newRule(sizes chunk.Sizes) rule {
	r := rule{table: table(), inverse: ^uint64(0)/discriminator(sizes) + 1}
	for i, v := range r.table {
		r.leaving[i] = bits.RotateLeft32(v, window)
	}
	return r
}

// discriminator corrects the average for the bounds on both sides, which casync
// found by a fit. The conversions keep the compiler from fusing multiplication and
// addition, which would round differently on some processors.
func discriminator(sizes chunk.Sizes) uint64 {
	avg := float64(sizes.Avg)
	d := uint64(avg / (float64(-1.42888852e-7*avg) + 1.33237515))
	return min(max(d, uint64(sizes.Min)), uint64(sizes.Max))
}

// cut returns the length of data's first chunk; data has Max bytes, or is all
// that is left.
func (r *rule) cut(data []byte, sizes chunk.Sizes) int {
	if len(data) <= sizes.Min || sizes.Min == sizes.Max {
		return len(data)
	}
	var h uint32 // only the window counts, so it may begin right before the first test
	for _, b := range data[sizes.Min-window : sizes.Min] {
		h = bits.RotateLeft32(h, 1) ^ r.table[b]
	}
	leaving := data[sizes.Min-window : len(data)-window]
	for i, b := range data[sizes.Min:] {
		if (uint64(h)+1)*r.inverse < r.inverse {
			return sizes.Min + i
		}
		h = bits.RotateLeft32(h, 1) ^ r.leaving[leaving[i]] ^ r.table[b]
	}
	return len(data)
}

// Index cuts all that r holds and returns its index: that of an image whose own
// one was lost, or was made with other sizes. like gives sizes and digest.
func Index(ctx context.Context, r io.Reader, like *chunk.Index) (*chunk.Index, error) {
	b, err := chunk.NewBuilder(like.Algorithm(), like.Sizes())
	if err != nil {
		return nil, err
	}
	c, err := New(r, like.Sizes())
	if err != nil {
		return nil, err
	}
	for {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("index image: %w", err)
		}
		data, err := c.Next()
		if err == io.EOF {
			return b.Index()
		}
		if err != nil {
			return nil, err
		}
		if err := b.Add(like.Algorithm().Sum(data), len(data)); err != nil {
			return nil, err
		}
	}
}
