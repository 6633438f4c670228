package chunk

import (
	"encoding/binary"
	"fmt"
	"math"
)

// The layout of a blob index, all numbers 64-bit little-endian, after casync 2:
//
//	head   48, magicIndex, flags, min, avg, max
//	table  2^64-1, magicTable, then per chunk: offset of its end, 32 bytes ID
//	tail   0, 0, 48, bytes from the table's head to the end of the tail, magicTail
const (
	headSize  = 48
	tableSize = 16
	itemSize  = 40
	tailSize  = 40
	maxChunks = (MaxIndex - headSize - tableSize - tailSize) / itemSize

	magicIndex = 0x96824d9c7b129ff9
	magicTable = 0xe75b9e112f17417d
	magicTail  = 0x4b4f050e5549ecd1

	// How directories are archived: casync sets all but submounts by default, also
	// in the index of a blob, where they mean nothing.
	flagExcludeNoDump    = 1 << 63
	flagExcludeSubmounts = 1 << 62
	flagSHA512_256       = 1 << 61
	flagExcludeFile      = 1 << 60
	defaultFlags         = flagExcludeNoDump | flagExcludeFile
	knownFlags           = defaultFlags | flagExcludeSubmounts | flagSHA512_256
)

// Parse reads an encoded index of a blob (.caibx). It refuses anything that
// Encode would not write, but for the flags that mean nothing here.
func Parse(data []byte) (*Index, error) {
	n, err := count(data)
	if err != nil {
		return nil, fmt.Errorf("parse index: %w", err)
	}
	b, err := parseHead(data)
	if err != nil {
		return nil, fmt.Errorf("parse index: %w", err)
	}
	b.ix.items = make([]item, 0, n)
	var at uint64
	for rest := data[headSize+tableSize : len(data)-tailSize]; len(rest) > 0; rest = rest[itemSize:] {
		end := number(rest, 0)
		if end <= at || end-at > uint64(b.ix.sizes.Max) {
			return nil, fmt.Errorf("parse index: chunk %d ends at %d after one that ends at %d; at most %d bytes each", len(b.ix.items), end, at, b.ix.sizes.Max)
		}
		if err := b.Add(ID(rest[8:itemSize]), int(end-at)); err != nil {
			return nil, fmt.Errorf("parse index: %w", err)
		}
		at = end
	}
	ix, err := b.Index()
	if err != nil {
		return nil, fmt.Errorf("parse index: %w", err)
	}
	return ix, nil
}

// count checks the outer form and returns the number of chunks.
func count(data []byte) (int, error) {
	if len(data) > MaxIndex {
		return 0, fmt.Errorf("%d bytes, at most %d are read", len(data), MaxIndex)
	}
	items := len(data) - headSize - tableSize - tailSize
	if items < 0 || items%itemSize != 0 {
		return 0, fmt.Errorf("%d bytes are no whole number of chunks", len(data))
	}
	tail := data[len(data)-tailSize:]
	if number(tail, 0) != 0 || number(tail, 1) != 0 || number(tail, 2) != headSize ||
		number(tail, 3) != uint64(len(data)-headSize) || number(tail, 4) != magicTail {
		return 0, fmt.Errorf("bad tail: truncated, or not an index")
	}
	return items / itemSize, nil
}

func parseHead(data []byte) (*Builder, error) {
	if number(data, 0) != headSize || number(data, 1) != magicIndex ||
		number(data, 6) != math.MaxUint64 || number(data, 7) != magicTable {
		return nil, fmt.Errorf("bad head: not an index")
	}
	flags := number(data, 2)
	if flags&^knownFlags != 0 {
		return nil, fmt.Errorf("flags %#x: not the index of a blob", flags)
	}
	algorithm := SHA256
	if flags&flagSHA512_256 != 0 {
		algorithm = SHA512_256
	}
	var sizes [3]int
	for i := range sizes {
		v := number(data, 3+i)
		if v > MaxChunk {
			return nil, fmt.Errorf("chunk size %d, at most %d", v, MaxChunk)
		}
		sizes[i] = int(v)
	}
	return NewBuilder(algorithm, Sizes{Min: sizes[0], Avg: sizes[1], Max: sizes[2]})
}

// number returns the ith 64-bit number of data.
func number(data []byte, i int) uint64 { return binary.LittleEndian.Uint64(data[8*i:]) }

// Encode returns the index as a .caibx file, the same bytes that `casync make`
// writes by default for these chunks.
func (ix *Index) Encode() []byte {
	flags := uint64(defaultFlags)
	if ix.algorithm == SHA512_256 {
		flags |= flagSHA512_256
	}
	le := binary.LittleEndian
	out := make([]byte, 0, headSize+tableSize+len(ix.items)*itemSize+tailSize)
	for _, v := range []uint64{headSize, magicIndex, flags, uint64(ix.sizes.Min), uint64(ix.sizes.Avg), uint64(ix.sizes.Max), math.MaxUint64, magicTable} {
		out = le.AppendUint64(out, v)
	}
	for _, it := range ix.items {
		out = append(le.AppendUint64(out, uint64(it.end)), it.id[:]...)
	}
	for _, v := range []uint64{0, 0, headSize, uint64(cap(out) - headSize), magicTail} {
		out = le.AppendUint64(out, v)
	}
	return out
}
