package pack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/update/chunk"
)

// content is n bytes, half noise and half text, with a run of zeros.
func content(n int) []byte {
	r := rand.NewChaCha8([32]byte{1})
	data := make([]byte, n)
	_, _ = r.Read(data)
	for i := range n / 2 {
		data[i] = "etaoin shrdlu\n"[data[i]%14]
	}
	clear(data[n/3 : n/3+n/5])
	return data
}

func config(data []byte, folder string) Config {
	return Config{
		Image: bytes.NewReader(data), Size: int64(len(data)), Store: folder, Sizes: chunk.DefaultSizes(),
		Algorithm: chunk.SHA512_256, FS: &fsx.FS{}, Workers: 2,
	}
}

func run(t testing.TB, cfg Config) *Result {
	t.Helper()
	got, err := Pack(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func casync(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("casync"); err != nil {
		t.Skip("casync is not installed: apt install casync")
	}
	if out, err := exec.Command("casync", args...).CombinedOutput(); err != nil {
		t.Fatalf("casync %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func TestCasyncExtractsOurIndexAndStoreToTheSameBytes(t *testing.T) {
	for _, algorithm := range []chunk.Algorithm{chunk.SHA512_256, chunk.SHA256} {
		dir := t.TempDir()
		data := content(6<<20 + 77)
		cfg := config(data, filepath.Join(dir, "default.castr"))
		cfg.Algorithm = algorithm
		index, image := filepath.Join(dir, "image.caibx"), filepath.Join(dir, "out")
		if err := os.WriteFile(index, run(t, cfg).Index.Encode(), 0o600); err != nil {
			t.Fatal(err)
		}
		casync(t, "extract", "--seed-output=no", index, image)
		got, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, data) {
			t.Errorf("%s: casync extracted other bytes", algorithm)
		}
	}
}

// The store of `casync make` already holds every chunk, readable and under the
// name that we would give it.
func TestChunksOfCasyncMakeAreKept(t *testing.T) {
	dir := t.TempDir()
	data := content(5 << 20)
	blob, folder := filepath.Join(dir, "image"), filepath.Join(dir, "default.castr")
	if err := os.WriteFile(blob, data, 0o600); err != nil {
		t.Fatal(err)
	}
	casync(t, "make", filepath.Join(dir, "image.caibx"), blob)
	got := run(t, config(data, folder))
	if got.Added != 0 || got.Chunks == 0 {
		t.Errorf("added %d of %d chunks", got.Added, got.Chunks)
	}
}

func TestPackIsRepeatableAndHealsDamage(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "store")
	data := content(5 << 20)
	first := run(t, config(data, folder))
	if first.Added != first.Chunks || first.Chunks >= first.Index.Len() {
		t.Errorf("added %d of %d different chunks, %d in all; zeros should repeat", first.Added, first.Chunks, first.Index.Len())
	}
	damage := func(i int, f func([]byte) []byte) {
		path := filepath.Join(folder, first.Index.At(i).ID.Path())
		packed, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f(packed), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	damage(0, func(b []byte) []byte { return b[:len(b)/2] })
	damage(1, func(b []byte) []byte { b[len(b)-1]++; return b })
	damage(2, func([]byte) []byte { return nil })
	if second := run(t, config(data, folder)); second.Added != 3 || !bytes.Equal(second.Index.Encode(), first.Index.Encode()) {
		t.Errorf("%d chunks replaced, want the 3 damaged ones", second.Added)
	}
	if third := run(t, config(data, folder)); third.Added != 0 || third.Packed != 0 {
		t.Errorf("%d chunks added to a whole store", third.Added)
	}
}

func TestProgressRisesToTheWholeImage(t *testing.T) {
	data := content(3 << 20)
	cfg := config(data, t.TempDir())
	last := int64(0)
	cfg.Progress = func(done, total int64) {
		if done <= last || total != int64(len(data)) {
			t.Errorf("%d of %d after %d", done, total, last)
		}
		last = done
	}
	run(t, cfg)
	if last != int64(len(data)) {
		t.Errorf("ended at %d of %d", last, len(data))
	}
}

func TestImageOfAnotherLengthIsRefused(t *testing.T) {
	data := content(1 << 20)
	for _, size := range []int64{0, -1, 1, 1<<20 - 1, 1<<20 + 1, 1 << 40} {
		cfg := config(data, t.TempDir())
		cfg.Size = size
		if got, err := Pack(t.Context(), cfg); err == nil {
			t.Errorf("size %d: packed %d chunks", size, got.Chunks)
		}
	}
	for name, spoil := range map[string]func(*Config){
		"no image": func(c *Config) { c.Image = nil }, "no digest": func(c *Config) { c.Algorithm = 0 },
		"no workers": func(c *Config) { c.Workers = 0 }, "no sizes": func(c *Config) { c.Sizes = chunk.Sizes{} },
		"no store": func(c *Config) { c.Store = "" }, "no file system": func(c *Config) { c.FS = nil },
	} {
		cfg := config(data, t.TempDir())
		spoil(&cfg)
		if _, err := Pack(t.Context(), cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// The disk fills, or the power goes, at some write: Pack says so, leaves no half
// chunk under a chunk's name, and the next Pack completes the store.
func TestFailureAtAnyWriteIsSaidAndHealedByPackingAgain(t *testing.T) {
	data := content(400 << 10)
	full := errors.New("no space left on device")
	for at := int64(1); ; at += 7 {
		folder := filepath.Join(t.TempDir(), "store")
		cfg := config(data, folder)
		var n atomic.Int64
		cfg.FS = &fsx.FS{Hook: func(string, string) error {
			if n.Add(1) >= at {
				return full
			}
			return nil
		}}
		_, err := Pack(t.Context(), cfg)
		if err == nil && at > n.Load() {
			break
		}
		if !errors.Is(err, full) {
			t.Fatalf("failure at operation %d: %v", at, err)
		}
		run(t, config(data, folder))
		again := run(t, config(data, folder))
		if again.Added != 0 {
			t.Fatalf("failure at operation %d left the store short of %d chunks", at, again.Added)
		}
	}
}

func TestCancelledPackEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cfg := config(content(2<<20), t.TempDir())
	cfg.Progress = func(int64, int64) { cancel() }
	if _, err := Pack(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Memory must not follow the image's length: a tenth of the length by default.
func TestMemoryIsTheSameForSmallAndLargeImages(t *testing.T) {
	large := int64(128 << 20)
	if os.Getenv("GATEWARDEN_LONG") != "" {
		large = 4 << 30
	}
	data := content(8 << 20)
	peak := func(size int64) uint64 {
		cfg := config(nil, t.TempDir())
		cfg.Image, cfg.Size, cfg.Sizes = io.LimitReader(&pattern{data: data}, size), size, chunk.SizesFor(4<<30)
		var top uint64
		n := 0
		cfg.Progress = func(int64, int64) {
			if n++; n%50 == 0 {
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				top = max(top, m.HeapInuse)
			}
		}
		runtime.GC()
		run(t, cfg)
		return top
	}
	small, big := peak(32<<20), peak(large)
	t.Logf("peak heap: %d MiB for 32 MiB, %d MiB for %d MiB", small>>20, big>>20, large>>20)
	if big > small+16<<20 {
		t.Errorf("peak heap %d for 32 MiB, %d for %d MiB", small, big, large>>20)
	}
}

// pattern is an endless image that repeats every 8 MiB, so that few chunks are
// written.
type pattern struct {
	data []byte
	at   int
}

func (p *pattern) Read(b []byte) (int, error) {
	n := copy(b, p.data[p.at:])
	p.at = (p.at + n) % len(p.data)
	return n, nil
}

func BenchmarkPack(b *testing.B) {
	data := content(32 << 20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		run(b, config(data, b.TempDir()))
	}
}

func size(t *testing.T, folder string) (total int64) {
	t.Helper()
	err := filepath.WalkDir(folder, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		total += info.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return total
}

func TestStoreIsNotLargerThanCasyncs(t *testing.T) {
	dir := t.TempDir()
	data := content(6 << 20)
	blob, theirs, ours := filepath.Join(dir, "image"), filepath.Join(dir, "default.castr"), filepath.Join(dir, "ours")
	if err := os.WriteFile(blob, data, 0o600); err != nil {
		t.Fatal(err)
	}
	casync(t, "make", filepath.Join(dir, "image.caibx"), blob)
	run(t, config(data, ours))
	if a, b := size(t, ours), size(t, theirs); a > b {
		t.Errorf("our store has %d bytes, casync's %d", a, b)
	} else {
		t.Logf("our store has %d bytes, casync's %d", a, b)
	}
}
