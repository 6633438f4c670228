package cut

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"testing/iotest"

	"github.com/gatewarden/gatewarden/update/chunk"
)

// image returns n bytes, the same for the same seed, of text, noise, zeros and
// repetition, as file systems hold them.
func image(seed uint64, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	out := make([]byte, 0, n+1<<18)
	for len(out) < n {
		part := make([]byte, 1+r.Uint64()%(1<<18))
		switch r.Uint64() % 4 {
		case 0: // zeros
		case 1:
			_, _ = r.Read(part)
		case 2:
			_, _ = r.Read(part)
			for i := range part {
				part[i] = "etaoin shrdlu\n"[part[i]%14]
			}
		case 3:
			_, _ = r.Read(part[:min(16, len(part))])
			for i := 16; i < len(part); i++ {
				part[i] = part[i-16]
			}
		}
		out = append(out, part...)
	}
	return out[:n]
}

func like(t testing.TB, a chunk.Algorithm, s chunk.Sizes) *chunk.Index {
	t.Helper()
	b, err := chunk.NewBuilder(a, s)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Add(chunk.ID{}, 1); err != nil {
		t.Fatal(err)
	}
	ix, err := b.Index()
	if err != nil {
		t.Fatal(err)
	}
	return ix
}

func TestIndexIsByteForByteThatOfCasyncMake(t *testing.T) {
	if _, err := exec.LookPath("casync"); err != nil {
		t.Skip("casync is not installed: apt install casync")
	}
	for _, c := range []struct {
		size      int
		algorithm chunk.Algorithm
		sizes     chunk.Sizes
	}{
		{12<<20 + 12345, chunk.SHA512_256, chunk.DefaultSizes()},
		{9 << 20, chunk.SHA256, chunk.DefaultSizes()},
		{9<<20 + 1, chunk.SHA512_256, chunk.Sizes{Min: 64 << 10, Avg: 256 << 10, Max: 1 << 20}},
		{3 << 20, chunk.SHA512_256, chunk.Sizes{Min: 64, Avg: 4096, Max: 5000}},
		{3 << 20, chunk.SHA512_256, chunk.Sizes{Min: 100000, Avg: 100000, Max: 100000}},
		{16 << 10, chunk.SHA512_256, chunk.DefaultSizes()},
		{16<<10 + 1, chunk.SHA512_256, chunk.DefaultSizes()},
		{1, chunk.SHA512_256, chunk.DefaultSizes()},
	} {
		t.Run(fmt.Sprintf("%d bytes %s %v", c.size, c.algorithm, c.sizes), func(t *testing.T) {
			dir := t.TempDir()
			data := image(uint64(c.size), c.size)
			blob, index := filepath.Join(dir, "image"), filepath.Join(dir, "image.caibx")
			if err := os.WriteFile(blob, data, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("casync", "make", "--digest="+c.algorithm.String(),
				fmt.Sprintf("--chunk-size=%d:%d:%d", c.sizes.Min, c.sizes.Avg, c.sizes.Max), index, blob).CombinedOutput()
			if err != nil {
				t.Fatalf("casync make: %v: %s", err, out)
			}
			want, err := os.ReadFile(index)
			if err != nil {
				t.Fatal(err)
			}
			ix, err := Index(t.Context(), bytes.NewReader(data), like(t, c.algorithm, c.sizes))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(ix.Encode(), want) {
				t.Error("another index than casync's")
			}
			read, err := chunk.Parse(want)
			if err != nil {
				t.Fatal(err)
			}
			if read.Size() != int64(c.size) || !bytes.Equal(read.Encode(), want) {
				t.Errorf("casync's index reads as %d bytes", read.Size())
			}
		})
	}
}

// The rule in the words of the format, without shortcuts.
func slowCut(data []byte, s chunk.Sizes) int {
	tab, d := table(), uint32(discriminator(s))
	for n := max(s.Min, window); n < len(data); n++ {
		var h uint32
		for j, b := range data[n-window : n] {
			h ^= bits.RotateLeft32(tab[b], window-1-j)
		}
		if h%d == d-1 {
			return n
		}
	}
	return len(data)
}

func FuzzFastCutEqualsTheRule(f *testing.F) {
	f.Add(image(1, 2000), uint16(64), uint16(100))
	f.Add(image(2, 3000), uint16(500), uint16(64))
	f.Fuzz(func(t *testing.T, data []byte, low, spread uint16) {
		s := chunk.Sizes{Min: max(int(low), window)}
		s.Avg = s.Min + int(spread)
		s.Max = s.Avg + int(spread)
		whole := data
		c, err := New(iotest.OneByteReader(bytes.NewReader(data)), s)
		if err != nil {
			t.Fatal(err)
		}
		for len(data) > 0 {
			got, err := c.Next()
			if err != nil {
				t.Fatal(err)
			}
			part := data[:min(len(data), s.Max)]
			want := len(part)
			if s.Min != s.Max && len(part) > s.Min {
				want = slowCut(part, s)
			}
			if !bytes.Equal(got, data[:want]) {
				t.Fatalf("%d of %d bytes left: cut %d, the rule says %d", len(data), len(whole), len(got), want)
			}
			data = data[want:]
		}
		if _, err := c.Next(); err != io.EOF {
			t.Fatalf("after the last chunk: %v", err)
		}
	})
}

// The multiplication must agree with the remainder for every hash, the largest
// included, where hash+1 no longer fits 32 bits.
func TestCutTestWithoutDivisionIsExact(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, d := range []uint64{48, 49, 16384, 49535, 1 << 20, 1<<20 - 1} {
		inverse := ^uint64(0)/d + 1
		check := func(h uint32) {
			if fast, slow := (uint64(h)+1)*inverse < inverse, uint64(h)%d == d-1; fast != slow {
				t.Fatalf("hash %d, d %d: %t, the remainder says %t", h, d, fast, slow)
			}
		}
		for k := range uint64(2000) {
			check(uint32(k*d - 1))
			check(uint32(k * d))
			check(r.Uint32())
		}
		check(1<<32 - 1)
		check(1<<32 - 2)
	}
}

func TestInsertedBytesMoveFewChunks(t *testing.T) {
	data := image(7, 8<<20)
	a, err := Index(t.Context(), bytes.NewReader(data), like(t, chunk.SHA512_256, chunk.DefaultSizes()))
	if err != nil {
		t.Fatal(err)
	}
	moved := append(append(append([]byte{}, data[:4<<20]...), "inserted"...), data[4<<20:]...)
	b, err := Index(t.Context(), bytes.NewReader(moved), a)
	if err != nil {
		t.Fatal(err)
	}
	fresh := 0
	for i := range b.Len() {
		if len(a.Find(b.At(i).ID)) == 0 {
			fresh++
		}
	}
	if fresh == 0 || fresh > 4 {
		t.Errorf("%d new chunks of %d", fresh, b.Len())
	}
}

func TestReadErrorEndsTheCut(t *testing.T) {
	broken := fmt.Errorf("disk on fire")
	r := io.MultiReader(bytes.NewReader(image(3, 1<<20)), iotest.ErrReader(broken))
	if _, err := Index(t.Context(), r, like(t, chunk.SHA256, chunk.DefaultSizes())); err == nil {
		t.Error("an image that could not be read to its end has an index")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Index(ctx, bytes.NewReader(image(3, 1<<20)), like(t, chunk.SHA256, chunk.DefaultSizes())); err == nil {
		t.Error("a cancelled cut gave an index")
	}
	if _, err := Index(t.Context(), bytes.NewReader(nil), like(t, chunk.SHA256, chunk.DefaultSizes())); err == nil {
		t.Error("an empty image has an index")
	}
	if _, err := New(r, chunk.Sizes{Min: 47, Avg: 100, Max: 200}); err == nil {
		t.Error("chunks shorter than the window are cut")
	}
}

func BenchmarkCut(b *testing.B) {
	data := image(9, 16<<20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		c, err := New(bytes.NewReader(data), chunk.DefaultSizes())
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = c.Next()
		}
	}
}
