package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/update/tuf"
)

// serve returns a fetcher for handler, with a window that a test can wait for.
func serve(t *testing.T, handler http.HandlerFunc) *HTTP {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	h, err := New(Config{Base: server.URL + "/repo", Client: server.Client(), MinRate: 1000, Window: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func get(t *testing.T, h *HTTP, name string) ([]byte, error) {
	t.Helper()
	body, err := h.Fetch(t.Context(), name, 1<<20)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

// drip sends n bytes in pieces, with a pause before each.
func drip(w http.ResponseWriter, r *http.Request, n, piece int, pause time.Duration) {
	for sent := 0; sent < n; sent += piece {
		select {
		case <-time.After(pause):
		case <-r.Context().Done():
			return
		}
		_, _ = w.Write(bytes.Repeat([]byte("x"), piece))
		_ = http.NewResponseController(w).Flush()
	}
}

// unlessStalled tries again what fails: a machine that stalls looks like a slow
// server, but it does not stall each time.
func unlessStalled(t *testing.T, try func() error) {
	t.Helper()
	var err error
	for range 5 {
		if err = try(); err == nil {
			return
		}
	}
	t.Error(err)
}

func TestSlowRetrievalAttack(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"no answer": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"no body": func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"drop by drop": func(w http.ResponseWriter, r *http.Request) { drip(w, r, 1000, 1, 5*time.Millisecond) },
		"a burst, then nothing": func(w http.ResponseWriter, r *http.Request) {
			drip(w, r, 100_000, 100_000, 0)
			<-r.Context().Done()
		},
		"a burst, then drops": func(w http.ResponseWriter, r *http.Request) {
			drip(w, r, 100_000, 100_000, 0)
			drip(w, r, 1000, 1, 5*time.Millisecond)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := serve(t, handler)
			unlessStalled(t, func() error {
				start := time.Now()
				_, err := get(t, h, "file")
				if !errors.Is(err, ErrSlow) {
					t.Fatalf("error is %v, want ErrSlow", err)
				}
				if took := time.Since(start); took > 4*time.Second {
					return fmt.Errorf("it took %v", took)
				}
				return nil
			})
		})
	}
}

func TestSlowReaderAndSmallFilesAreNoAttack(t *testing.T) {
	t.Run("rate kept", func(t *testing.T) {
		t.Parallel()
		h := serve(t, func(w http.ResponseWriter, r *http.Request) { drip(w, r, 20_000, 400, 10*time.Millisecond) })
		unlessStalled(t, func() error {
			data, err := get(t, h, "file")
			if err != nil || len(data) != 20_000 {
				return fmt.Errorf("%d bytes, %w", len(data), err)
			}
			return nil
		})
	})
	t.Run("small file", func(t *testing.T) {
		t.Parallel()
		h := serve(t, func(w http.ResponseWriter, r *http.Request) { drip(w, r, 1, 1, 20*time.Millisecond) })
		unlessStalled(t, func() error {
			data, err := get(t, h, "file")
			if err != nil || len(data) != 1 {
				return fmt.Errorf("%d bytes, %w", len(data), err)
			}
			return nil
		})
	})
	t.Run("reader takes its time", func(t *testing.T) {
		t.Parallel()
		h := serve(t, func(w http.ResponseWriter, r *http.Request) { drip(w, r, 100, 100, 0) })
		unlessStalled(t, func() error {
			body, err := h.Fetch(t.Context(), "file", 1000)
			if err != nil {
				return err
			}
			defer body.Close()
			<-time.After(2 * h.cfg.Window) // a slow disk
			if data, err := io.ReadAll(body); err != nil || len(data) != 100 {
				return fmt.Errorf("%d bytes, %w", len(data), err)
			}
			return nil
		})
	})
}

func TestAnswersOfTheServer(t *testing.T) {
	for status, c := range map[int]struct{ none, good bool }{
		200: {good: true}, 404: {none: true}, 403: {none: true}, 500: {}, 503: {}, 401: {}, 204: {}, 206: {}, 304: {},
	} {
		h := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		_, err := get(t, h, "file")
		if (err == nil) != c.good || errors.Is(err, tuf.ErrNoFile) != c.none {
			t.Errorf("status %d: %v", status, err)
		}
	}
}

func TestNamesReachTheServerAsTheyAre(t *testing.T) {
	got := ""
	h := serve(t, func(_ http.ResponseWriter, r *http.Request) { got = r.RequestURI })
	for name, want := range map[string]string{
		"2.root.json": "/repo/2.root.json", "1.%3F.json": "/repo/1.%3F.json", "1.%2Fa.json": "/repo/1.%2Fa.json",
		"1...%2Fa.json": "/repo/1...%2Fa.json", "a/b%20c": "/repo/a/b%20c", "%25": "/repo/%25",
	} {
		if _, err := get(t, h, name); err != nil || got != want {
			t.Errorf("%s: asked for %s, want %s: %v", name, got, want, err)
		}
	}
	if _, err := get(t, h, "%zz"); err == nil {
		t.Error("a name that is not escaped right was asked for")
	}
}

func TestAnnouncedLengthAboveTheLimitIsNotRead(t *testing.T) {
	h := serve(t, func(w http.ResponseWriter, r *http.Request) { drip(w, r, 1000, 1000, 0) })
	h2 := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write(make([]byte, 1000))
	})
	if _, err := h2.Fetch(t.Context(), "file", 999); err == nil {
		t.Error("1000 announced bytes passed a limit of 999")
	}
	body, err := h.Fetch(t.Context(), "file", 999) // not announced: the reader's limit
	if err != nil {
		t.Fatal(err)
	}
	body.Close()
}

// A file is what the server has, not what a transport unpacked on the way.
func TestNothingIsUnpacked(t *testing.T) {
	h := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "identity" {
			t.Errorf("accepts %q", r.Header.Get("Accept-Encoding"))
		}
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write([]byte("packed"))
	})
	if data, err := get(t, h, "file"); err != nil || string(data) != "packed" {
		t.Errorf("got %q, %v", data, err)
	}
}

func TestCallersContextEndsIt(t *testing.T) {
	h := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Fetch(ctx, "file", 1); !errors.Is(err, context.Canceled) || errors.Is(err, ErrSlow) {
		t.Errorf("error is %v", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{Base: "https://example.org/x/", Client: &http.Client{}, MinRate: 1, Window: 1}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"no client": func(c *Config) { c.Client = nil }, "no rate": func(c *Config) { c.MinRate = 0 }, "no window": func(c *Config) { c.Window = 0 },
		"no URL": func(c *Config) { c.Base = "" }, "file": func(c *Config) { c.Base = "file:///etc" }, "no host": func(c *Config) { c.Base = "https:///x" },
		"query": func(c *Config) { c.Base = "https://example.org/?x" }, "fragment": func(c *Config) { c.Base = "https://example.org/#x" }, "bad URL": func(c *Config) { c.Base = "https://exa mple" },
	} {
		bad := good
		change(&bad)
		if _, err := New(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
