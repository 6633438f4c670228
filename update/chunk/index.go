package chunk

import (
	"bytes"
	"fmt"
	"sort"
)

// Chunk is one entry of an index.
type Chunk struct {
	Offset int64 // bytes from the image's beginning
	Size   int   // uncompressed bytes, 1 to Sizes.Max
	ID     ID
}

// Index is an image as a list of chunks. It never changes and is safe for
// concurrent use.
type Index struct {
	sizes     Sizes
	algorithm Algorithm
	items     []item
	byID      []int32 // numbers of items in the order of their IDs, then of their places
}

type item struct {
	end int64
	id  ID
}

// Len is the number of chunks, at least 1.
func (ix *Index) Len() int { return len(ix.items) }

// Size is the image's length in bytes.
func (ix *Index) Size() int64 { return ix.items[len(ix.items)-1].end }

// Sizes returns the sizes that the image was cut with.
func (ix *Index) Sizes() Sizes { return ix.sizes }

// Algorithm returns the digest of the IDs.
func (ix *Index) Algorithm() Algorithm { return ix.algorithm }

// At returns the ith chunk, 0 <= i < Len.
func (ix *Index) At(i int) Chunk {
	c := Chunk{ID: ix.items[i].id}
	if i > 0 {
		c.Offset = ix.items[i-1].end
	}
	c.Size = int(ix.items[i].end - c.Offset)
	return c
}

// Find returns the numbers of the chunks that are id, in ascending order; the
// caller must not change the slice. It is empty where there is none.
func (ix *Index) Find(id ID) []int32 {
	from := sort.Search(len(ix.byID), func(k int) bool { return ix.compare(k, id) >= 0 })
	to := from + sort.Search(len(ix.byID)-from, func(k int) bool { return ix.compare(from+k, id) > 0 })
	return ix.byID[from:to]
}

func (ix *Index) compare(k int, id ID) int {
	return bytes.Compare(ix.items[ix.byID[k]].id[:], id[:])
}

// Builder makes an Index chunk by chunk.
type Builder struct{ ix Index }

// NewBuilder starts an index of chunks cut with sizes.
func NewBuilder(algorithm Algorithm, sizes Sizes) (*Builder, error) {
	if !algorithm.Valid() {
		return nil, fmt.Errorf("build index: no digest algorithm")
	}
	if err := sizes.Check(); err != nil {
		return nil, fmt.Errorf("build index: %w", err)
	}
	return &Builder{Index{algorithm: algorithm, sizes: sizes}}, nil
}

// Add appends a chunk of size uncompressed bytes.
func (b *Builder) Add(id ID, size int) error {
	n := len(b.ix.items)
	if size < 1 || size > b.ix.sizes.Max {
		return fmt.Errorf("add chunk %d: %d bytes, want 1 to %d", n, size, b.ix.sizes.Max)
	}
	if n >= maxChunks {
		return fmt.Errorf("add chunk %d: the index would exceed %d bytes; cut with a larger average size", n, MaxIndex)
	}
	end := int64(size)
	if n > 0 {
		end += b.ix.items[n-1].end
	}
	b.ix.items = append(b.ix.items, item{end: end, id: id})
	return nil
}

// Index returns the index; the builder must not be used after it. An index
// without chunks is an error, and one where an ID has chunks of two sizes: no
// bytes could satisfy it.
func (b *Builder) Index() (*Index, error) {
	ix := &b.ix
	if len(ix.items) == 0 {
		return nil, fmt.Errorf("build index: no chunk")
	}
	ix.byID = make([]int32, len(ix.items))
	for i := range ix.byID {
		ix.byID[i] = int32(i)
	}
	sort.Slice(ix.byID, func(i, j int) bool { // no copy of the algorithm for this type
		a, b := ix.byID[i], ix.byID[j]
		c := bytes.Compare(ix.items[a].id[:], ix.items[b].id[:])
		return c < 0 || c == 0 && a < b
	})
	for k := 1; k < len(ix.byID); k++ {
		a, c := ix.At(int(ix.byID[k-1])), ix.At(int(ix.byID[k]))
		if a.ID == c.ID && a.Size != c.Size {
			return nil, fmt.Errorf("build index: chunk %s has %d bytes and %d", c.ID, a.Size, c.Size)
		}
	}
	return ix, nil
}
