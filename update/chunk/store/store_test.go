package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/update/chunk"
)

// served is a store in memory.
type served map[string][]byte

func (s served) Get(_ context.Context, path string, buf []byte) (int, error) {
	data, ok := s[path]
	if !ok {
		return 0, ErrAbsent
	}
	return fill(bytes.NewReader(data), buf)
}

func pack(t testing.TB, data []byte, opts ...zstd.EOption) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil, opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	return w.EncodeAll(data, nil)
}

// stream packs without the content's size in the frame's head, as casync does.
func stream(t testing.TB, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithWindowSize(2<<20), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	for part := data; len(part) > 0; part = part[min(1000, len(part)):] {
		if _, err := w.Write(part[:min(1000, len(part))]); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func open(t testing.TB, p Place) *Store {
	t.Helper()
	s, err := New(Config{Place: p, Algorithm: chunk.SHA512_256, Timeout: 2 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestChunkIsWhatItsIDSaysOrRefused(t *testing.T) {
	data := bytes.Repeat([]byte("all that is gold "), 1000)
	id := chunk.SHA512_256.Sum(data)
	good := pack(t, data)
	flip := func(i int) []byte { b := bytes.Clone(good); b[i] ^= 1; return b }
	for name, c := range map[string]struct {
		packed []byte
		size   int
		want   error
	}{
		"good":                   {good, len(data), nil},
		"good, size not in head": {stream(t, data), len(data), nil},
		"two frames":             {append(pack(t, data[:5]), pack(t, data[5:])...), len(data), nil},
		"absent":                 {nil, len(data), ErrAbsent},
		"empty":                  {[]byte{}, len(data), ErrDamaged},
		"not compressed":         {data, len(data), ErrDamaged},
		"another chunk":          {pack(t, bytes.Repeat([]byte("x"), len(data))), len(data), ErrDamaged},
		"shorter than asked":     {good, len(data) + 1, ErrDamaged},
		"longer than asked":      {good, len(data) - 1, ErrDamaged},
		"longer, size hidden":    {stream(t, data), len(data) - 1, ErrDamaged},
		"truncated":              {good[:len(good)-5], len(data), ErrDamaged},
		"trailing bytes":         {append(bytes.Clone(good), 1), len(data), ErrDamaged},
		"trailing frame":         {append(bytes.Clone(good), pack(t, []byte("x"))...), len(data), ErrDamaged},
		"altered head":           {flip(5), len(data), ErrDamaged},
		"altered middle":         {flip(len(good) / 2), len(data), ErrDamaged},
		"altered check":          {flip(len(good) - 1), len(data), ErrDamaged},
		"window of 1 GiB":        {[]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0xa0, 1, 0, 0}, len(data), ErrDamaged},
		"needs a dictionary":     {[]byte{0x28, 0xb5, 0x2f, 0xfd, 1, 0x58, 7, 1, 0, 0}, len(data), ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			place := served{}
			if c.packed != nil {
				place[id.Path()] = c.packed
			}
			got, err := open(t, place).Chunk(t.Context(), id, c.size)
			if !errors.Is(err, c.want) || (c.want == nil && (err != nil || !bytes.Equal(got, data))) {
				t.Errorf("got %d bytes, %v; want %v", len(got), err, c.want)
			}
		})
	}
	for _, size := range []int{0, -1, chunk.MaxChunk + 1, 1 << 30} {
		if _, err := open(t, served{id.Path(): good}).Chunk(t.Context(), id, size); err == nil {
			t.Errorf("chunk of %d bytes", size)
		}
	}
}

// A few bytes that unpack to gigabytes must cost no more than the chunk's size.
func TestZstdBombCostsOnlyTheChunksSize(t *testing.T) {
	var bomb bytes.Buffer
	w, err := zstd.NewWriter(&bomb, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(w, zeros{}, 64<<20); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	id := chunk.SHA512_256.Sum([]byte("x"))
	s := open(t, served{id.Path(): bomb.Bytes()})
	if bomb.Len() > packedLimit(256<<10) {
		t.Fatalf("the bomb has %d bytes and would not be read at all", bomb.Len())
	}
	ask := func() {
		if _, err := s.Chunk(t.Context(), id, 256<<10); !errors.Is(err, ErrDamaged) {
			t.Errorf("got %v", err)
		}
	}
	ask() // buffers are there from here on
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 10 {
		ask()
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 10*1<<20 {
		t.Errorf("ten bombs allocated %d bytes", used)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// incompressible data grows; it must still fit what is read.
func TestIncompressibleChunkOfEachSizeFits(t *testing.T) {
	noise := make([]byte, chunk.MaxChunk)
	seed := chunk.SHA256.Sum(nil)
	for i := 0; i < len(noise); i += 32 {
		copy(noise[i:], seed[:])
		seed = chunk.SHA256.Sum(seed[:])
	}
	for _, n := range []int{1, 100, 1 << 17, 1<<17 + 1, chunk.MaxChunk} {
		id := chunk.SHA512_256.Sum(noise[:n])
		for _, packed := range [][]byte{pack(t, noise[:n]), pack(t, noise[:n], zstd.WithSingleSegment(true))} {
			if _, err := open(t, served{id.Path(): packed}).Chunk(t.Context(), id, n); err != nil {
				t.Errorf("%d bytes as %d: %v", n, len(packed), err)
			}
		}
	}
}

func website(t *testing.T, h http.HandlerFunc, budget *Budget) *Store {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	p, err := HTTP(HTTPConfig{Base: server.URL + "/some/store/", Client: server.Client(), Budget: budget})
	if err != nil {
		t.Fatal(err)
	}
	return open(t, p)
}

func TestHTTPStoreAndItsBudget(t *testing.T) {
	data := []byte(strings.Repeat("a chunk ", 500))
	id := chunk.SHA512_256.Sum(data)
	packed := pack(t, data)
	budget := NewBudget(int64(3*len(packed) - 1))
	asked := 0
	s := website(t, func(w http.ResponseWriter, r *http.Request) {
		asked++
		if r.URL.Path != "/some/store/"+id.Path() || r.Header.Get("Accept-Encoding") != "identity" {
			t.Errorf("asked for %s, encoding %q", r.URL, r.Header.Get("Accept-Encoding"))
		}
		_, _ = w.Write(packed)
	}, budget)
	for i := range 2 {
		if got, err := s.Chunk(t.Context(), id, len(data)); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d: %v", i, err)
		}
		if want := int64((i + 1) * len(packed)); budget.Used() != want {
			t.Errorf("used %d bytes, the chunks have %d", budget.Used(), want)
		}
	}
	for range 2 {
		if _, err := s.Chunk(t.Context(), id, len(data)); !errors.Is(err, ErrBudget) {
			t.Errorf("past the budget: %v", err)
		}
	}
	if budget.Used() > int64(3*len(packed)-1) {
		t.Errorf("used %d bytes", budget.Used())
	}
}

func TestHostileWebServerIsRefusedInBounds(t *testing.T) {
	data := []byte("chunk")
	id := chunk.SHA512_256.Sum(data)
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   error
	}{
		"absent":         {http.NotFound, ErrAbsent},
		"captive portal": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>Log in</html>") }, ErrDamaged},
		"endless data": {func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}, ErrDamaged},
		"announces 2^62 bytes": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "4611686018427387904")
		}, ErrDamaged},
		"partial content": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(206); _, _ = w.Write(pack(t, data)) }, nil},
		"server error":    {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, nil},
		"gzip unasked": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write([]byte{0x1f, 0x8b})
		}, ErrDamaged},
		"body cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("half"))
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			budget := NewBudget(1 << 30)
			_, err := website(t, c.answer, budget).Chunk(t.Context(), id, len(data))
			if err == nil || (c.want != nil && !errors.Is(err, c.want)) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if budget.Used() > 2048 {
				t.Errorf("read %d bytes for a chunk of %d", budget.Used(), len(data))
			}
		})
	}
}

func TestSlowRetrievalIsGivenUp(t *testing.T) {
	data := []byte("chunk")
	id := chunk.SHA512_256.Sum(data)
	hold := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte{0x28})
		w.(http.Flusher).Flush()
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	}))
	defer server.Close()
	defer close(hold)
	p, err := HTTP(HTTPConfig{Base: server.URL, Client: server.Client(), Budget: NewBudget(1000)})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Place: p, Algorithm: chunk.SHA512_256, Timeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if _, err := s.Chunk(t.Context(), id, len(data)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestFolderStoreFollowsNoLinkAndReadsNoHugeFile(t *testing.T) {
	data := []byte(strings.Repeat("a chunk ", 500))
	id := chunk.SHA512_256.Sum(data)
	root := t.TempDir()
	path := filepath.Join(root, filepath.FromSlash(id.Path()))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	p, err := Dir(&fsx.FS{}, root)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, p)
	if _, err := s.Chunk(t.Context(), id, len(data)); !errors.Is(err, ErrAbsent) {
		t.Errorf("absent: %v", err)
	}
	aside := filepath.Join(root, "aside")
	if err := os.WriteFile(aside, pack(t, data), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(aside, path); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Chunk(t.Context(), id, len(data)); err == nil {
		t.Error("a link was followed")
	}
	if err := os.Rename(aside, path); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Chunk(t.Context(), id, len(data)); err != nil || !bytes.Equal(got, data) {
		t.Errorf("good: %v", err)
	}
	if err := os.Truncate(path, 1<<40); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Chunk(t.Context(), id, len(data)); !errors.Is(err, ErrDamaged) {
		t.Errorf("huge: %v", err)
	}
}

func TestIncompleteConfigurationIsRefused(t *testing.T) {
	for _, c := range []Config{{}, {Place: served{}, Timeout: 1}, {Place: served{}, Algorithm: chunk.SHA256}, {Algorithm: chunk.SHA256, Timeout: 1}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v accepted", c)
		}
	}
	for _, base := range []string{"", "/path", "file:///x", "ftp://host/", "https://", "https://host/?q=1", "https://host/#f", "://"} {
		if _, err := HTTP(HTTPConfig{Base: base, Client: http.DefaultClient, Budget: NewBudget(1)}); err == nil {
			t.Errorf("address %q accepted", base)
		}
	}
	if _, err := HTTP(HTTPConfig{Base: "https://host"}); err == nil {
		t.Error("no client accepted")
	}
	if _, err := Dir(nil, ""); err == nil {
		t.Error("no folder accepted")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(pack(f, []byte("hello hello hello hello")), uint16(23))
	f.Add(stream(f, bytes.Repeat([]byte("hello"), 1000)), uint16(5000))
	f.Fuzz(func(t *testing.T, packed []byte, size uint16) {
		var id chunk.ID // that of no bytes which a fuzzer will find
		if got, err := open(t, served{id.Path(): packed}).Chunk(t.Context(), id, max(1, int(size))); err == nil {
			t.Fatalf("accepted %x", got)
		}
	})
}
