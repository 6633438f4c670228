package chunk

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// small returns an index of n chunks of 100 bytes, and the image.
func small(t testing.TB, n int) (*Index, []byte) {
	t.Helper()
	b, err := NewBuilder(SHA512_256, Sizes{Min: 50, Avg: 100, Max: 200})
	if err != nil {
		t.Fatal(err)
	}
	var image []byte
	for i := range n {
		part := bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 50)
		image = append(image, part...)
		if err := b.Add(SHA512_256.Sum(part), len(part)); err != nil {
			t.Fatal(err)
		}
	}
	ix, err := b.Index()
	if err != nil {
		t.Fatal(err)
	}
	return ix, image
}

func TestAlteredIndexIsRefused(t *testing.T) {
	ix, _ := small(t, 5)
	good := ix.Encode()
	if _, err := Parse(good); err != nil {
		t.Fatal(err)
	}
	set := func(field int, v uint64) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint64(b[8*field:], v); return b }
	}
	const first, second = headSize + tableSize, headSize + tableSize + itemSize
	for name, c := range map[string]struct {
		alter func([]byte) []byte
		says  string
	}{
		"empty":                   {func([]byte) []byte { return nil }, "whole number"},
		"truncated by one byte":   {func(b []byte) []byte { return b[:len(b)-1] }, "whole number"},
		"truncated by one chunk":  {func(b []byte) []byte { return b[:len(b)-itemSize] }, "bad tail"},
		"one chunk cut out":       {func(b []byte) []byte { return append(b[:first], b[second:]...) }, "bad tail"},
		"trailing bytes":          {func(b []byte) []byte { return append(b, make([]byte, itemSize)...) }, "bad tail"},
		"no chunk":                {func(b []byte) []byte { return noChunk() }, "no chunk"},
		"larger than the limit":   {func(b []byte) []byte { return append(b, make([]byte, MaxIndex)...) }, "at most"},
		"another head size":       {set(0, 56), "bad head"},
		"another type":            {set(1, 1), "bad head"},
		"archive's flags":         {set(2, 0xb000000000000001), "flags"},
		"future flag":             {set(2, 1<<59), "flags"},
		"min 0":                   {set(3, 0), "chunk sizes"},
		"min above avg":           {set(3, 101), "chunk sizes"},
		"avg above max":           {set(4, 201), "chunk sizes"},
		"max above 1 MiB":         {set(5, MaxChunk+1), "at most 1048576"},
		"max 2^64-1":              {set(5, math.MaxUint64), "at most 1048576"},
		"max 2^32+200":            {set(5, 1<<32+200), "at most 1048576"},
		"max below the chunks":    {set(5, 100-1), "chunk sizes"},
		"table of known size":     {set(6, 1000), "bad head"},
		"another table type":      {set(7, 1), "bad head"},
		"unsorted offsets":        {set(second/8, 50), "ends at 50 after one that ends at 100"},
		"equal offsets":           {set(second/8, 100), "ends at 100"},
		"first ends at 0":         {set(first/8, 0), "ends at 0"},
		"chunk above max":         {set(second/8, 301), "at most 200"},
		"offset 2^63":             {set(second/8, 1<<63), "at most 200"},
		"offset 2^64-1":           {set(second/8, math.MaxUint64), "at most 200"},
		"offset wraps 2^32":       {set(second/8, 1<<32+200), "at most 200"},
		"tail's first zero":       {func(b []byte) []byte { b[len(b)-40] = 1; return b }, "bad tail"},
		"tail's second zero":      {func(b []byte) []byte { b[len(b)-32] = 1; return b }, "bad tail"},
		"tail's index offset":     {func(b []byte) []byte { b[len(b)-24]++; return b }, "bad tail"},
		"tail's size, huge count": {func(b []byte) []byte { b[len(b)-9] = 0xff; return b }, "bad tail"},
		"tail's size off by one":  {func(b []byte) []byte { b[len(b)-16]++; return b }, "bad tail"},
		"tail's magic":            {func(b []byte) []byte { b[len(b)-1]++; return b }, "bad tail"},
		"duplicate ID, two sizes": {func(b []byte) []byte {
			copy(b[first+8:second], b[second+8:second+itemSize])
			return set(first/8, 90)(b)
		}, "90 bytes and 110"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse(c.alter(bytes.Clone(good)))
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want an error with %q", err, c.says)
			}
		})
	}
}

func noChunk() []byte {
	b := &Builder{Index{algorithm: SHA512_256, sizes: DefaultSizes()}}
	return b.ix.Encode()
}

// Equal content in one image, say zeros, is a duplicate ID that must stay legal.
func TestDuplicateIDsOfOneSizeAreFoundAtEachPlace(t *testing.T) {
	b, err := NewBuilder(SHA256, Sizes{Min: 1, Avg: 10, Max: 20})
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"aaa", "bb", "aaa", "aaa", "c"} {
		if err := b.Add(SHA256.Sum([]byte(part)), len(part)); err != nil {
			t.Fatal(err)
		}
	}
	ix, err := b.Index()
	if err != nil {
		t.Fatal(err)
	}
	got := ix.Find(SHA256.Sum([]byte("aaa")))
	if len(got) != 3 || got[0] != 0 || got[1] != 2 || got[2] != 3 || ix.At(3).Offset != 8 || ix.Size() != 12 {
		t.Errorf("places %v, size %d", got, ix.Size())
	}
	if got := ix.Find(SHA256.Sum([]byte("x"))); len(got) != 0 {
		t.Errorf("found what is not there: %v", got)
	}
}

func TestAlteredChunkIsNeverWritten(t *testing.T) {
	ix, image := small(t, 3)
	w := &memory{}
	for name, data := range map[string][]byte{
		"flipped bit":  append([]byte{image[100] ^ 1}, image[101:200]...),
		"short":        image[100:199],
		"long":         image[100:201],
		"empty":        nil,
		"another":      image[0:100],
		"MaxChunk + 1": make([]byte, MaxChunk+1),
	} {
		p, err := ix.Piece(1, data)
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
		if p.Put(w) == nil {
			t.Errorf("%s: a piece that was refused could be written", name)
		}
	}
	for _, i := range []int{-1, 3, math.MaxInt32} {
		if _, err := ix.Piece(i, image[:100]); err == nil {
			t.Errorf("chunk %d of 3 accepted", i)
		}
	}
	if w.writes != 0 {
		t.Fatalf("%d writes", w.writes)
	}
	p, err := ix.Piece(1, image[100:200])
	if err != nil || p.Put(w) != nil || w.at != 100 {
		t.Errorf("a good chunk: %v, written at %d", err, w.at)
	}
}

type memory struct {
	writes int
	at     int64
}

func (m *memory) WriteAt(p []byte, at int64) (int, error) {
	m.writes, m.at = m.writes+1, at
	return len(p), nil
}

// CVE-2026-34155's kind: lengths past 2^31 or 2^32 must not wrap. Every chunk of a
// sparse 4 GiB + 1 MiB image has its place, and those at the borders are written and
// read back there.
func TestPlacesAround2GiBAnd4GiBDoNotWrap(t *testing.T) {
	const chunks = 4097
	b, err := NewBuilder(SHA512_256, Sizes{Min: 256 << 10, Avg: 512 << 10, Max: MaxChunk})
	if err != nil {
		t.Fatal(err)
	}
	content := func(i int) []byte {
		data := make([]byte, MaxChunk)
		binary.LittleEndian.PutUint32(data[MaxChunk-4:], uint32(i+1))
		return data
	}
	borders := []int{0, 2046, 2047, 2048, 2049, 4094, 4095, 4096}
	for i, k := 0, 0; i < chunks; i++ {
		id := ID{byte(i), byte(i >> 8)}
		if k < len(borders) && borders[k] == i {
			id = SHA512_256.Sum(content(i))
			k++
		}
		if err := b.Add(id, MaxChunk); err != nil {
			t.Fatal(err)
		}
	}
	built, err := b.Index()
	if err != nil {
		t.Fatal(err)
	}
	ix, err := Parse(built.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if ix.Size() != 1<<32+MaxChunk {
		t.Fatalf("size %d", ix.Size())
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "slot"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for _, i := range borders {
		p, err := ix.Piece(i, content(i))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Put(f); err != nil {
			t.Fatal(err)
		}
	}
	tail := make([]byte, 4)
	for _, i := range borders {
		if got := ix.At(i).Offset; got != int64(i)<<20 {
			t.Errorf("chunk %d begins at %d", i, got)
		}
		if _, err := f.ReadAt(tail, int64(i+1)<<20-4); err != nil || binary.LittleEndian.Uint32(tail) != uint32(i+1) {
			t.Errorf("chunk %d is not where it should be: %v, %x", i, err, tail)
		}
		err := ix.Scan(t.Context(), f, i, i+1, func(n int, ok bool) error {
			if n != i || !ok {
				t.Errorf("chunk %d does not read back", i)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestScanFindsEachAlteredChunk(t *testing.T) {
	ix, image := small(t, 20)
	bad := map[int]bool{0: true, 7: true, 19: true}
	for i := range bad {
		image[100*i+99] ^= 0x80
	}
	for name, r := range map[string]io.ReaderAt{"whole": bytes.NewReader(image), "cut short": bytes.NewReader(image[:1950])} {
		n := 0
		err := ix.Scan(t.Context(), r, 0, ix.Len(), func(i int, ok bool) error {
			if i != n || ok == bad[i] {
				t.Errorf("%s: chunk %d: %t", name, i, ok)
			}
			n++
			return nil
		})
		if err != nil || n != 20 {
			t.Errorf("%s: %d chunks, %v", name, n, err)
		}
	}
	stop := errors.New("stop")
	if err := ix.Scan(t.Context(), bytes.NewReader(image), 0, 20, func(int, bool) error { return stop }); !errors.Is(err, stop) {
		t.Error("went on after report's error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ix.Scan(ctx, bytes.NewReader(image), 0, 20, func(int, bool) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Error("went on after the end of its context")
	}
	for _, r := range [][2]int{{-1, 2}, {2, 1}, {0, 21}} {
		if ix.Scan(t.Context(), bytes.NewReader(image), r[0], r[1], func(int, bool) error { return nil }) == nil {
			t.Errorf("scanned %v", r)
		}
	}
}

func TestIndexNeverGrowsPastItsLimit(t *testing.T) {
	b, err := NewBuilder(SHA256, DefaultSizes())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for b.Add(ID{byte(n), byte(n >> 8), byte(n >> 16)}, 1) == nil {
		n++
	}
	ix, err := b.Index()
	if err != nil {
		t.Fatal(err)
	}
	data := ix.Encode()
	if len(data) > MaxIndex || len(data) <= MaxIndex-itemSize {
		t.Errorf("%d chunks in %d bytes", n, len(data))
	}
	if _, err := Parse(data); err != nil {
		t.Error(err)
	}
	for _, size := range []int{0, -1, 256<<10 + 1} {
		b, _ := NewBuilder(SHA256, DefaultSizes())
		if b.Add(ID{}, size) == nil {
			t.Errorf("chunk of %d bytes was added", size)
		}
	}
	if _, err := NewBuilder(0, DefaultSizes()); err == nil {
		t.Error("no digest was accepted")
	}
}

func TestSizesLeaveRoomInTheIndex(t *testing.T) {
	for image, want := range map[int64]Sizes{
		1:       DefaultSizes(),
		1 << 30: DefaultSizes(),
		2 << 30: {32 << 10, 128 << 10, 512 << 10},
		4 << 30: {64 << 10, 256 << 10, 1 << 20},
		8 << 30: {128 << 10, 512 << 10, 1 << 20},
	} {
		got := SizesFor(image)
		if got != want || got.Check() != nil {
			t.Errorf("%d bytes: %v, want %v", image, got, want)
		}
		if n := image / int64(got.Avg); n > maxChunks*4/5 {
			t.Errorf("%d bytes: %d chunks expected, at most %d fit", image, n, maxChunks)
		}
	}
}

func FuzzParse(f *testing.F) {
	ix, _ := small(f, 3)
	f.Add(ix.Encode())
	f.Add(noChunk())
	f.Fuzz(func(t *testing.T, data []byte) {
		ix, err := Parse(data)
		if err != nil {
			return
		}
		again := ix.Encode()
		data[8*2+7] = again[8*2+7] // flags that mean nothing here
		if !bytes.Equal(again, data) {
			t.Fatalf("read %x, wrote %x", data, again)
		}
		end := int64(0)
		for i := range ix.Len() {
			c := ix.At(i)
			if c.Offset != end || c.Size < 1 || c.Size > MaxChunk {
				t.Fatalf("chunk %d at %d with %d bytes after %d", i, c.Offset, c.Size, end)
			}
			end += int64(c.Size)
			found := false
			for _, k := range ix.Find(c.ID) {
				found = found || int(k) == i
			}
			if !found {
				t.Fatalf("chunk %d is not found by its ID", i)
			}
		}
		if end != ix.Size() {
			t.Fatalf("chunks end at %d, size %d", end, ix.Size())
		}
	})
}
