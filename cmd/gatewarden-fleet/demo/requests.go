package demo

import (
	"context"
	"log/slog"
	"maps"
	"path"
	"strings"
	"sync"
)

// requests counts how often each chunk was asked for, by name.
type requests struct {
	mu     sync.Mutex
	chunks map[string]int
}

func (r *requests) add(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.chunks == nil {
		r.chunks = make(map[string]int)
	}
	r.chunks[name]++
}

// take returns the counts since the last time.
func (r *requests) take() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := maps.Clone(r.chunks)
	clear(r.chunks)
	return all
}

// requestCounter reads them out of the fleet server's log.
type requestCounter struct {
	slog.Handler
	requests *requests
}

func (c *requestCounter) Enabled(context.Context, slog.Level) bool { return true }

func (c *requestCounter) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelInfo {
		return c.Handler.Handle(ctx, r)
	}
	r.Attrs(func(a slog.Attr) bool {
		if name, ok := strings.CutSuffix(path.Base(a.Value.String()), ".cacnk"); ok && a.Key == "path" {
			c.requests.add(name)
		}
		return true
	})
	return nil
}

func (c *requestCounter) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &requestCounter{c.Handler.WithAttrs(attrs), c.requests}
}

func (c *requestCounter) WithGroup(name string) slog.Handler {
	return &requestCounter{c.Handler.WithGroup(name), c.requests}
}
