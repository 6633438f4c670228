package plan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/gatewarden/gatewarden/update/chunk"
	"github.com/gatewarden/gatewarden/update/chunk/cut"
)

// image returns n bytes; the same seed gives the same ones.
func image(seed byte, n int) []byte {
	r := rand.NewChaCha8([32]byte{seed})
	data := make([]byte, n)
	_, _ = r.Read(data)
	for i := range n / 2 {
		data[i] = "etaoin shrdlu\n"[data[i]%14]
	}
	return data
}

// edit returns data with each of n places of width bytes written anew.
func edit(data []byte, n, width int) []byte {
	out := bytes.Clone(data)
	for i := range n {
		at := i * (len(data) / n)
		copy(out[at:], image(byte(100+i), width))
	}
	return out
}

func index(t testing.TB, data []byte) *chunk.Index {
	t.Helper()
	b, err := chunk.NewBuilder(chunk.SHA512_256, chunk.DefaultSizes())
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Add(chunk.ID{}, 1); err != nil {
		t.Fatal(err)
	}
	like, err := b.Index()
	if err != nil {
		t.Fatal(err)
	}
	ix, err := cut.Index(t.Context(), bytes.NewReader(data), like)
	if err != nil {
		t.Fatal(err)
	}
	return ix
}

// memory is a slot.
type memory struct {
	data   []byte
	writes int
}

func (m *memory) ReadAt(p []byte, at int64) (int, error) {
	return bytes.NewReader(m.data).ReadAt(p, at)
}

func (m *memory) WriteAt(p []byte, at int64) (int, error) {
	m.writes++
	return copy(m.data[at:], p), nil
}

// mirror has every chunk of an image and counts what it gives.
type mirror struct {
	index *chunk.Index
	data  []byte
	given map[chunk.ID]int
	bytes int64
	fail  error // given instead, from the time when after is reached
	after int
}

func newMirror(ix *chunk.Index, data []byte) *mirror {
	return &mirror{index: ix, data: data, given: map[chunk.ID]int{}}
}

func (m *mirror) Chunk(_ context.Context, id chunk.ID, size int) ([]byte, error) {
	if m.fail != nil && len(m.given) >= m.after {
		return nil, m.fail
	}
	at := m.index.Find(id)
	if len(at) == 0 {
		return nil, fmt.Errorf("no chunk %s", id)
	}
	c := m.index.At(int(at[0]))
	m.given[id]++
	m.bytes += int64(size)
	return slices.Clone(m.data[c.Offset : c.Offset+int64(c.Size)]), nil
}

// write is what the process does that may write.
func write(ix *chunk.Index, slot io.WriterAt) func(context.Context, int, []byte) error {
	return func(_ context.Context, i int, data []byte) error {
		p, err := ix.Piece(i, data)
		if err != nil {
			return err
		}
		return p.Put(slot)
	}
}

func examine(t testing.TB, ix *chunk.Index, slot io.ReaderAt) []bool {
	t.Helper()
	in, err := Examine(t.Context(), ix, slot)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func newPlan(t testing.TB, cfg Config) *Plan {
	t.Helper()
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestChunksOfTheRunningSlotAreNotFetched(t *testing.T) {
	old := image(1, 4<<20)
	fresh := edit(old, 3, 10_000)
	fresh = append(fresh[:1<<20:1<<20], append([]byte("some bytes more"), fresh[1<<20:]...)...)
	target, running := index(t, fresh), index(t, old)
	slot, far := &memory{data: make([]byte, len(fresh))}, newMirror(target, fresh)
	p := newPlan(t, Config{
		Target: target, InPlace: examine(t, target, slot), Spare: slot,
		Seeds: []Seed{{running, bytes.NewReader(old)}},
	})
	if err := p.Run(t.Context(), far, write(target, slot)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(slot.data, fresh) {
		t.Error("the spare slot holds another image")
	}
	for id := range far.given {
		if len(running.Find(id)) > 0 {
			t.Errorf("chunk %s of the running slot was fetched", id)
		}
	}
	need := p.Need()
	if far.bytes != need.Fetch.Bytes || len(far.given) != need.Fetch.Chunks || need.Fetch.Chunks == 0 || need.Fetch.Bytes > 1<<20 {
		t.Errorf("fetched %d bytes in %d chunks, planned %+v", far.bytes, len(far.given), need)
	}
}

func TestChunksInPlaceAreNotRewritten(t *testing.T) {
	fresh := image(2, 3<<20)
	target := index(t, fresh)
	slot := &memory{data: edit(fresh, 2, 100)}
	in := examine(t, target, slot)
	p := newPlan(t, Config{Target: target, InPlace: in, Spare: slot})
	if err := p.Run(t.Context(), newMirror(target, fresh), write(target, slot)); err != nil {
		t.Fatal(err)
	}
	missing := 0
	for _, ok := range in {
		if !ok {
			missing++
		}
	}
	if missing == 0 || slot.writes != missing || !bytes.Equal(slot.data, fresh) {
		t.Errorf("%d writes for %d chunks that were not in place", slot.writes, missing)
	}
	again := newPlan(t, Config{Target: target, InPlace: examine(t, target, slot)})
	if n := again.Need(); n.Fetch.Chunks+n.Copy.Chunks != 0 || n.InPlace != n.Total || n.Total.Bytes != int64(len(fresh)) {
		t.Errorf("the finished slot needs %+v", n)
	}
}

// The power goes after any chunk, before it was put or after: at most that chunk is
// fetched again, and nothing but the slot itself was kept.
func TestPowerCutCostsAtMostOneChunkFetchedAgain(t *testing.T) {
	old := image(3, 2<<20)
	fresh := append(edit(old, 3, 20_000), make([]byte, 2<<20)...) // zeros are one chunk at many places
	target, running := index(t, fresh), index(t, old)
	cut := errors.New("power cut")
	whole := newPlan(t, Config{Target: target, InPlace: make([]bool, target.Len()), Seeds: []Seed{{running, bytes.NewReader(old)}}}).Need()
	for at := 0; ; at++ {
		slot, far := &memory{data: make([]byte, len(fresh))}, newMirror(target, fresh)
		copy(slot.data, image(9, len(fresh)))
		resume := func(put func(context.Context, int, []byte) error) error {
			p := newPlan(t, Config{Target: target, InPlace: examine(t, target, slot), Spare: slot, Seeds: []Seed{{running, bytes.NewReader(old)}}})
			return p.Run(t.Context(), far, put)
		}
		n, store := 0, write(target, slot)
		err := resume(func(ctx context.Context, i int, data []byte) error {
			if n++; n > at/2 {
				if at%2 == 1 { // half of it had been written
					c := target.At(i)
					copy(slot.data[c.Offset:], data[:c.Size/2])
				}
				return cut
			}
			return store(ctx, i, data)
		})
		if err == nil {
			if at < 20 {
				t.Fatalf("only %d steps", at)
			}
			break
		}
		if !errors.Is(err, cut) {
			t.Fatal(err)
		}
		if err := resume(store); err != nil {
			t.Fatal(err)
		}
		total := 0
		for _, n := range far.given {
			total += n
		}
		if total > whole.Fetch.Chunks+1 || !bytes.Equal(slot.data, fresh) {
			t.Fatalf("cut at %d: %d chunks fetched, %d without a cut", at, total, whole.Fetch.Chunks)
		}
	}
}

func TestRepeatedContentIsFetchedOnce(t *testing.T) {
	fresh := make([]byte, 40<<20) // a slot that is mostly empty
	copy(fresh, image(4, 100_000))
	target := index(t, fresh)
	slot, far := &memory{data: bytes.Repeat([]byte{0xff}, len(fresh))}, newMirror(target, fresh)
	p := newPlan(t, Config{Target: target, InPlace: examine(t, target, slot)})
	if err := p.Run(t.Context(), far, write(target, slot)); err != nil {
		t.Fatal(err)
	}
	if len(far.given) > 10 || target.Len() < 160 || !bytes.Equal(slot.data, fresh) {
		t.Errorf("%d chunks fetched for %d", len(far.given), target.Len())
	}
}

// A seed whose index is stale, or whose disk rots, must not turn into a silent
// full download.
func TestDamagedSeedNeverBecomesASilentDownload(t *testing.T) {
	old := image(5, 4<<20)
	fresh := edit(old, 1, 1000)
	target, running := index(t, fresh), index(t, old)
	lying := bytes.NewReader(make([]byte, len(old)))
	run := func(seed io.ReaderAt, slack int64) (*mirror, *memory, error) {
		slot, far := &memory{data: make([]byte, len(fresh))}, newMirror(target, fresh)
		p := newPlan(t, Config{Target: target, InPlace: examine(t, target, slot), Seeds: []Seed{{running, seed}}, Slack: slack})
		return far, slot, p.Run(t.Context(), far, write(target, slot))
	}
	const slack = 600 << 10
	far, _, err := run(lying, slack)
	if !errors.Is(err, ErrSeed) || far.bytes > slack+300<<10 {
		t.Errorf("%d bytes fetched, %v", far.bytes, err)
	}
	one := bytes.Clone(old)
	one[3<<20] ^= 1
	if far, slot, err := run(bytes.NewReader(one), slack); err != nil || !bytes.Equal(slot.data, fresh) || far.bytes > 800<<10 {
		t.Errorf("one bad block: %d bytes fetched, %v", far.bytes, err)
	}
	if _, _, err := run(bytes.NewReader(one), 0); !errors.Is(err, ErrSeed) {
		t.Errorf("no slack: %v", err)
	}
	if _, _, err := run(bytes.NewReader(old[:1<<20]), 0); !errors.Is(err, ErrSeed) {
		t.Errorf("seed that ends early: %v", err)
	}
}

func TestFetchErrorEndsTheRunAndWritesNothingMore(t *testing.T) {
	fresh := image(6, 2<<20)
	target := index(t, fresh)
	slot, far := &memory{data: make([]byte, len(fresh))}, newMirror(target, fresh)
	far.fail, far.after = errors.New("link down"), 3
	p := newPlan(t, Config{Target: target, InPlace: examine(t, target, slot)})
	if err := p.Run(t.Context(), far, write(target, slot)); !errors.Is(err, far.fail) || slot.writes != 3 {
		t.Errorf("%v after %d writes", err, slot.writes)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := p.Run(ctx, newMirror(target, fresh), write(target, slot)); !errors.Is(err, context.Canceled) || slot.writes != 3 {
		t.Errorf("cancelled: %v after %d writes", err, slot.writes)
	}
	if _, err := Examine(ctx, target, slot); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled examination: %v", err)
	}
}

func TestIncompletePlanIsRefused(t *testing.T) {
	data := image(7, 100_000)
	ix := index(t, data)
	b, err := chunk.NewBuilder(chunk.SHA256, chunk.DefaultSizes())
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Add(chunk.ID{}, 1); err != nil {
		t.Fatal(err)
	}
	other, err := b.Index()
	if err != nil {
		t.Fatal(err)
	}
	in := make([]bool, ix.Len())
	for name, c := range map[string]Config{
		"nothing":         {},
		"InPlace missing": {Target: ix},
		"InPlace short":   {Target: ix, InPlace: in[1:]},
		"negative slack":  {Target: ix, InPlace: in, Slack: -1},
		"seed, no data":   {Target: ix, InPlace: in, Seeds: []Seed{{Index: ix}}},
		"seed, no index":  {Target: ix, InPlace: in, Seeds: []Seed{{Data: bytes.NewReader(data)}}},
		"another digest":  {Target: ix, InPlace: in, Seeds: []Seed{{other, bytes.NewReader(data)}}},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
