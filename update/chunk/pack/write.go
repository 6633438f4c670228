package pack

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/gatewarden/gatewarden/update/chunk"
	"github.com/gatewarden/gatewarden/update/chunk/store"
)

// readTimeout is how long reading back one stored chunk may take.
const readTimeout = time.Minute

// writer puts chunks into the store; each worker has its own.
type writer struct {
	cfg      Config
	encoders []*zstd.Encoder
	old      *store.Store
	packed   [2][]byte
}

// An image is packed once and fetched by every device, so both of the good levels
// are tried on each chunk: either gives larger chunks than casync's on some content.
// The ID covers the content, so there is no need of a second checksum.
func newWriter(cfg Config) (*writer, error) {
	w := &writer{cfg: cfg}
	for _, level := range []zstd.EncoderLevel{zstd.SpeedBestCompression, zstd.SpeedBetterCompression} {
		encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(chunk.MaxChunk),
			zstd.WithEncoderLevel(level), zstd.WithEncoderCRC(false))
		if err != nil {
			return nil, fmt.Errorf("make encoder: %w", err)
		}
		w.encoders = append(w.encoders, encoder)
	}
	place, err := store.Dir(cfg.FS, cfg.Store)
	if err != nil {
		return nil, err
	}
	w.old, err = store.New(store.Config{Place: place, Algorithm: cfg.Algorithm, Timeout: readTimeout})
	if err != nil {
		return nil, err
	}
	return w, nil
}

func (w *writer) close() {
	for _, e := range w.encoders {
		_ = e.Close()
	}
	_ = w.old.Close()
}

// put returns how many bytes it wrote: 0 if the chunk was there.
func (w *writer) put(ctx context.Context, j job) (int, error) {
	_, err := w.old.Chunk(ctx, j.id, j.size)
	if err == nil {
		return 0, nil
	}
	if !errors.Is(err, store.ErrAbsent) && !errors.Is(err, store.ErrDamaged) {
		return 0, err
	}
	path := filepath.Join(w.cfg.Store, filepath.FromSlash(j.id.Path()))
	if err := w.cfg.FS.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return 0, fmt.Errorf("make chunk folder: %w", err)
	}
	packed := w.pack(j.data)
	if err := w.cfg.FS.WriteFile(path, packed, 0o644); err != nil {
		return 0, fmt.Errorf("write chunk %s: %w", j.id, err)
	}
	return len(packed), nil
}

// pack returns the shortest form, valid until the next call.
func (w *writer) pack(data []byte) []byte {
	for i, e := range w.encoders {
		w.packed[i] = e.EncodeAll(data, w.packed[i][:0])
	}
	if len(w.packed[1]) < len(w.packed[0]) {
		return w.packed[1]
	}
	return w.packed[0]
}
