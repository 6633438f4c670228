package chunk

import (
	"context"
	"fmt"
	"io"
)

// Scan reads the chunks from <= i < to out of r, an image that begins at 0, and
// tells report of each, in order, whether its bytes are those of the index. Bytes
// that can't be read are not those of the index. It ends early with report's or
// ctx's error. Memory: one chunk.
func (ix *Index) Scan(ctx context.Context, r io.ReaderAt, from, to int, report func(i int, ok bool) error) error {
	if from < 0 || from > to || to > ix.Len() {
		return fmt.Errorf("scan chunks %d to %d: the index has %d", from, to, ix.Len())
	}
	buf := make([]byte, ix.sizes.Max)
	for i := from; i < to; i++ {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("scan chunk %d: %w", i, err)
		}
		if err := report(i, ix.Holds(r, i, buf)); err != nil {
			return err
		}
	}
	return nil
}

// Holds says whether the ith chunk lies in r at its place; buf has room for
// Sizes.Max bytes and holds the chunk after it.
func (ix *Index) Holds(r io.ReaderAt, i int, buf []byte) bool {
	c := ix.At(i)
	n, _ := r.ReadAt(buf[:c.Size], c.Offset) // at the end of r it may return all and io.EOF
	return n == c.Size && ix.algorithm.Sum(buf[:n]) == c.ID
}
