package plan

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/update/chunk"
	"github.com/gatewarden/gatewarden/update/chunk/pack"
	"github.com/gatewarden/gatewarden/update/chunk/store"
)

// publish packs an image into a store that a web server offers.
func publish(t testing.TB, folder string, data []byte) *chunk.Index {
	t.Helper()
	got, err := pack.Pack(t.Context(), pack.Config{
		Image: bytes.NewReader(data), Size: int64(len(data)), Store: folder, Sizes: chunk.DefaultSizes(),
		Algorithm: chunk.SHA512_256, FS: &fsx.FS{}, Workers: 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	return got.Index
}

func remote(t testing.TB, folder string, budget *store.Budget) *store.Store {
	t.Helper()
	server := httptest.NewServer(http.FileServer(http.Dir(folder)))
	t.Cleanup(server.Close)
	place, err := store.HTTP(store.HTTPConfig{Base: server.URL, Client: server.Client(), Budget: budget})
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.New(store.Config{Place: place, Algorithm: chunk.SHA512_256, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// chunkBytes returns the compressed sizes of the chunks in a store by path.
func chunkBytes(t *testing.T, folder string) map[string]int64 {
	t.Helper()
	all := map[string]int64{}
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			info, err := d.Info()
			if err != nil {
				return err
			}
			all[path] = info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// casyncCost is what the same update costs with casync: the chunks that the new
// image adds to the store, and its index.
func casyncCost(t *testing.T, old, fresh []byte) int64 {
	t.Helper()
	if _, err := exec.LookPath("casync"); err != nil {
		t.Skip("casync is not installed: apt install casync")
	}
	dir := t.TempDir()
	folder, blob, index := filepath.Join(dir, "default.castr"), filepath.Join(dir, "image"), filepath.Join(dir, "image.caibx")
	make := func(data []byte) {
		if err := os.WriteFile(blob, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("casync", "make", index, blob).CombinedOutput(); err != nil {
			t.Fatalf("casync make: %v: %s", err, out)
		}
	}
	make(old)
	had := chunkBytes(t, folder)
	make(fresh)
	info, err := os.Stat(index)
	if err != nil {
		t.Fatal(err)
	}
	cost := info.Size()
	for path, size := range chunkBytes(t, folder) {
		if _, ok := had[path]; !ok {
			cost += size
		}
	}
	return cost
}

// Budget 8: an update that changes about 2 % of a 64 MiB image, in 20 places, costs
// no more bytes than casync's. Budget 9: one that changes nothing costs at most
// 64 KB, and that with an index that is fetched anew.
func TestBytesFetchedForTwoPercentAndForNothing(t *testing.T) {
	const size = 64 << 20
	old := append(image(8, size*3/8), make([]byte, size*5/8)...) // a slot with free space
	fresh := edit(old, 20, size/50/20)
	theirs := casyncCost(t, old, fresh)
	folder := t.TempDir()
	running, target := publish(t, folder, old), publish(t, folder, fresh)

	budget := store.NewBudget(theirs)
	slot := &memory{data: image(9, size)}
	p := newPlan(t, Config{Target: target, InPlace: examine(t, target, slot), Spare: slot, Seeds: []Seed{{running, bytes.NewReader(old)}}})
	if err := p.Run(t.Context(), remote(t, folder, budget), write(target, slot)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(slot.data, fresh) {
		t.Fatal("the slot holds another image")
	}
	ours := budget.Used() + int64(len(target.Encode()))
	t.Logf("2 %%: %d bytes (%.2f %% of the image), casync %d", ours, 100*float64(ours)/size, theirs)
	if ours > theirs {
		t.Errorf("%d bytes fetched, casync needs %d", ours, theirs)
	}

	budget = store.NewBudget(64_000)
	slot = &memory{data: make([]byte, size)}
	p = newPlan(t, Config{Target: running, InPlace: examine(t, running, slot), Seeds: []Seed{{running, bytes.NewReader(old)}}})
	if err := p.Run(t.Context(), remote(t, folder, budget), write(running, slot)); err != nil {
		t.Fatal(err)
	}
	none := budget.Used() + int64(len(running.Encode()))
	t.Logf("nothing: %d bytes", none)
	if none > 64_000 || budget.Used() != 0 || !bytes.Equal(slot.data, old) {
		t.Errorf("%d bytes fetched for an image that the running slot holds", none)
	}
}

// Budget 7's memory: the device's part holds one chunk, packed and unpacked, the
// decoder and the indexes, whatever the image's length. Every second chunk comes from
// the running slot, the others are fetched.
func TestMemoryOfAnUpdateIsBounded(t *testing.T) {
	large := int64(512 << 20)
	if os.Getenv("GATEWARDEN_LONG") != "" {
		large = 4 << 30
	}
	small, big := peakHeap(t, 64<<20), peakHeap(t, large)
	t.Logf("peak heap: %d KiB for 64 MiB, %d KiB for %d MiB", small>>10, big>>10, large>>20)
	if small > 8<<20 || big > 8<<20 {
		t.Errorf("peak heap %d and %d bytes", small, big)
	}
}

func peakHeap(t *testing.T, size int64) uint64 {
	made := &numbered{noise: image(10, 256<<10), step: 1}
	n := int(size / int64(len(made.noise)))
	target, running := made.index(t, n, 1), made.index(t, n/2, 2)
	runtime.GC()
	var before, m runtime.MemStats
	runtime.ReadMemStats(&before)
	ix, err := chunk.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := chunk.Parse(running)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.New(store.Config{Place: &unpacked{of: made, index: ix}, Algorithm: ix.Algorithm(), Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	p := newPlan(t, Config{Target: ix, InPlace: make([]bool, n), Seeds: []Seed{{seed, &numbered{noise: bytes.Clone(made.noise), step: 2}}}})
	if got := p.Need(); got.Fetch.Chunks != n/2 || got.Copy.Chunks != n/2 {
		t.Fatalf("planned %+v", got)
	}
	top, puts := uint64(0), 0
	err = p.Run(t.Context(), s, func(context.Context, int, []byte) error {
		if puts++; puts%64 == 0 {
			runtime.ReadMemStats(&m)
			top = max(top, m.HeapAlloc)
		}
		return nil
	})
	if err != nil || puts != n {
		t.Fatalf("%d of %d chunks: %v", puts, n, err)
	}
	return top - min(top, before.HeapAlloc)
}

// numbered is an image made up as it is read: its kth chunk is noise that begins
// with the number k*step.
type numbered struct {
	noise []byte
	step  int64
}

func (c *numbered) ReadAt(p []byte, at int64) (int, error) {
	n := copy(p, c.noise)
	binary.LittleEndian.PutUint32(p, uint32(at/int64(len(c.noise))*c.step))
	return n, nil
}

func (c *numbered) index(t *testing.T, n, step int) []byte {
	t.Helper()
	b, err := chunk.NewBuilder(chunk.SHA512_256, chunk.Sizes{Min: 64 << 10, Avg: 256 << 10, Max: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Clone(c.noise)
	for k := range n {
		binary.LittleEndian.PutUint32(data, uint32(k*step))
		if err := b.Add(chunk.SHA512_256.Sum(data), len(data)); err != nil {
			t.Fatal(err)
		}
	}
	ix, err := b.Index()
	if err != nil {
		t.Fatal(err)
	}
	return ix.Encode()
}

// unpacked is a store of frames with raw blocks (RFC 8878, section 3.1.1.2), which
// cost the test no memory of its own.
type unpacked struct {
	of    *numbered
	index *chunk.Index
	raw   []byte
}

func (u *unpacked) Get(_ context.Context, path string, buf []byte) (int, error) {
	id, err := hex.DecodeString(path[5:69])
	if err != nil {
		return 0, err
	}
	u.raw = append(u.raw[:0], u.of.noise...)
	at := u.index.At(int(u.index.Find(chunk.ID(id))[0])).Offset
	if _, err := u.of.ReadAt(u.raw, at); err != nil {
		return 0, err
	}
	out := append(buf[:0], 0x28, 0xb5, 0x2f, 0xfd, 0xa0)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(u.raw)))
	const block = 128 << 10
	for rest := u.raw; len(rest) > 0; rest = rest[block:] {
		last := 0
		if len(rest) == block {
			last = 1
		}
		head := block<<3 | last
		out = append(append(out, byte(head), byte(head>>8), byte(head>>16)), rest[:block]...)
	}
	return len(out), nil
}
