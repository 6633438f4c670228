// Package chunk knows an image as a list of chunks, in casync's index format.
//
// Its promise: an Index that Parse returned describes one sequence of bytes
// without gap or overlap, each chunk at most MaxChunk long, and a Piece holds
// bytes whose digest is the one that the index names for their place. The package
// reads no file, no network and no clock, and decompresses nothing, so that the
// process that writes images can link it.
package chunk

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"io"
)

// ID is the digest of a chunk's uncompressed bytes.
type ID [32]byte

// String returns the ID as 64 lower-case hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Path returns where a chunk store keeps the chunk, with slashes: the first four
// digits are a folder.
func (id ID) Path() string {
	name := id.String()
	return name[:4] + "/" + name + ".cacnk"
}

// Algorithm is the digest that makes IDs.
type Algorithm uint8

// The algorithms of casync; the first is its default. The zero value is none.
const (
	SHA512_256 Algorithm = 1 + iota
	SHA256
)

// String returns the name that casync's --digest takes.
func (a Algorithm) String() string {
	switch a {
	case SHA512_256:
		return "sha512-256"
	case SHA256:
		return "sha256"
	}
	return "none"
}

// Valid says whether a is one of the algorithms above.
func (a Algorithm) Valid() bool { return a == SHA512_256 || a == SHA256 }

// Sum returns the ID of data; a is valid.
func (a Algorithm) Sum(data []byte) ID {
	if a == SHA256 {
		return sha256.Sum256(data)
	}
	return sha512.Sum512_256(data)
}

// AlgorithmNamed is the algorithm of a name that String returns.
func AlgorithmNamed(name string) (Algorithm, error) {
	for _, a := range []Algorithm{SHA512_256, SHA256} {
		if a.String() == name {
			return a, nil
		}
	}
	return 0, fmt.Errorf("digest %.20q is neither %s nor %s", name, SHA512_256, SHA256)
}

// Sizes are the bounds and the aim of chunk lengths in bytes. Two images have
// chunks in common only if they were cut with the same Sizes.
type Sizes struct{ Min, Avg, Max int }

// DefaultSizes are those of `casync make`.
func DefaultSizes() Sizes { return Sizes{Min: 16 << 10, Avg: 64 << 10, Max: 256 << 10} }

// SizesFor returns the default, or for an image of more than 1.2 GiB the next
// larger sizes with which its index will stay below MaxIndex.
func SizesFor(image int64) Sizes {
	s := DefaultSizes()
	for s.Avg < MaxChunk/2 && image/int64(s.Avg) > MaxIndex/itemSize*3/4 {
		s.Min, s.Avg, s.Max = s.Min*2, s.Avg*2, min(s.Max*2, MaxChunk)
	}
	return s
}

// Check refuses sizes that are out of order or above MaxChunk.
func (s Sizes) Check() error {
	if s.Min < 1 || s.Min > s.Avg || s.Avg > s.Max || s.Max > MaxChunk {
		return fmt.Errorf("check chunk sizes %d:%d:%d: want 1 <= min <= avg <= max <= %d", s.Min, s.Avg, s.Max, MaxChunk)
	}
	return nil
}

// Piece is a chunk whose bytes agree with the index, and its place. Only
// Index.Piece makes one.
type Piece struct {
	offset int64
	data   []byte
}

// Piece checks data, the uncompressed bytes of the ith chunk. The caller must own
// data: whoever can still change it makes the check worthless.
func (ix *Index) Piece(i int, data []byte) (Piece, error) {
	if i < 0 || i >= ix.Len() {
		return Piece{}, fmt.Errorf("check chunk %d: the index has %d", i, ix.Len())
	}
	c := ix.At(i)
	if len(data) != c.Size {
		return Piece{}, fmt.Errorf("check chunk %d: %d bytes, the index says %d", i, len(data), c.Size)
	}
	if got := ix.algorithm.Sum(data); got != c.ID {
		return Piece{}, fmt.Errorf("check chunk %d: digest %s, the index says %s", i, got, c.ID)
	}
	return Piece{offset: c.Offset, data: data}, nil
}

// Put writes the piece at its place in w, an image that begins at 0.
func (p Piece) Put(w io.WriterAt) error {
	if len(p.data) == 0 {
		return fmt.Errorf("write chunk: it was never checked")
	}
	if _, err := w.WriteAt(p.data, p.offset); err != nil {
		return fmt.Errorf("write chunk at %d: %w", p.offset, err)
	}
	return nil
}
