// Package store reads chunks from a casync chunk store: a folder, or one served
// over HTTP.
//
// Its promise: what Chunk returns has the digest and the length that were asked
// for, whoever keeps the store. A hostile store can cost at most one compressed
// chunk of memory and of the byte budget per call, and never more than Timeout.
package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/gatewarden/gatewarden/update/chunk"
)

// Classes of errors that a caller decides by; another mirror may help with the
// first two.
var (
	ErrAbsent  = errors.New("chunk is not in the store")
	ErrDamaged = errors.New("chunk is damaged")
	ErrBudget  = errors.New("byte budget is used up")
)

// Place is where a store keeps its files.
type Place interface {
	// Get reads the file at path, relative to the store and with slashes, into buf
	// and returns its length. A file that does not fit is an error that wraps
	// ErrDamaged, an absent one wraps ErrAbsent.
	Get(ctx context.Context, path string, buf []byte) (int, error)
}

// Config is what a Store needs. All fields are required.
type Config struct {
	Place     Place
	Algorithm chunk.Algorithm // the index's
	Timeout   time.Duration   // for one chunk, so that a store that drips is given up
}

// Store reads chunks. It is for one goroutine at a time.
type Store struct {
	cfg     Config
	decoder *zstd.Decoder
	packed  []byte
	raw     []byte
}

// New returns a Store; Close frees it.
func New(cfg Config) (*Store, error) {
	if cfg.Place == nil || !cfg.Algorithm.Valid() || cfg.Timeout <= 0 {
		return nil, fmt.Errorf("make chunk store: place, digest algorithm and timeout are required")
	}
	decoder, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxWindow),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("make decoder: %w", err)
	}
	return &Store{cfg: cfg, decoder: decoder}, nil
}

// Close frees the decoder.
func (s *Store) Close() error {
	s.decoder.Close()
	return nil
}

// Chunk returns the size bytes whose digest is id. They are valid until the next
// call.
func (s *Store) Chunk(ctx context.Context, id chunk.ID, size int) ([]byte, error) {
	if size < 1 || size > chunk.MaxChunk {
		return nil, fmt.Errorf("fetch chunk %s: %d bytes, want 1 to %d", id, size, chunk.MaxChunk)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	s.packed = room(s.packed, packedLimit(size))
	n, err := s.cfg.Place.Get(ctx, id.Path(), s.packed)
	if err != nil {
		return nil, fmt.Errorf("fetch chunk %s: %w", id, err)
	}
	s.raw = room(s.raw, size)
	// The decoder stops at the slice's capacity, whatever the frame claims.
	raw, err := s.decoder.DecodeAll(s.packed[:n], s.raw[:0:size])
	if err != nil {
		return nil, fmt.Errorf("decompress chunk %s: %w: %w", id, ErrDamaged, err)
	}
	if len(raw) != size {
		return nil, fmt.Errorf("decompress chunk %s: %w: %d bytes, want %d", id, ErrDamaged, len(raw), size)
	}
	if got := s.cfg.Algorithm.Sum(raw); got != id {
		return nil, fmt.Errorf("check chunk %s: %w: its digest is %s", id, ErrDamaged, got)
	}
	return raw, nil
}

// room returns a slice of n bytes, buf's own memory if that is enough.
func room(buf []byte, n int) []byte {
	if cap(buf) < n {
		return make([]byte, n)
	}
	return buf[:n]
}
