// Package fetch gets the files of a TUF repository over HTTP.
//
// Its promise: a server that is slow, silent or endless can hold up a caller for
// a known time only. It judges nothing else: package tuf does.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/update/tuf"
)

// ErrSlow says that the server sent less than MinRate.
var ErrSlow = errors.New("the server is too slow")

// Config is what an HTTP needs; nothing may be left out.
type Config struct {
	// Base is the URL below which the files are; its path is taken as a folder.
	Base   string
	Client *http.Client
	// MinRate is how many bytes a second the server must send, on average over each
	// Window of waiting for it. The wait for the answer counts; the time that the
	// reader takes for itself does not, nor does the end of a file that comes early.
	MinRate int64
	Window  time.Duration
}

// HTTP is a tuf.Fetcher, safe for concurrent use.
type HTTP struct {
	base *url.URL
	cfg  Config
}

// New returns an HTTP, or says what is wrong with cfg.
func New(cfg Config) (*HTTP, error) {
	if cfg.Client == nil || cfg.MinRate < 1 || cfg.Window <= 0 {
		return nil, errors.New("make HTTP fetcher: client, lowest rate and window are needed")
	}
	base, err := url.Parse(cfg.Base)
	if err != nil {
		return nil, fmt.Errorf("parse repository URL: %w", err)
	}
	if (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" || base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("parse repository URL: %q is no plain http or https URL", cfg.Base)
	}
	return &HTTP{base: base, cfg: cfg}, nil
}

// Fetch opens the file called name, a relative URL, escaped. Answers 403 and 404
// are tuf.ErrNoFile: object stores say 403 for what isn't there.
func (h *HTTP) Fetch(ctx context.Context, name string, limit int64) (io.ReadCloser, error) {
	target, err := h.locate(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	b := &body{cfg: h.cfg, cancel: cancel, ctx: ctx}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	// Asked for by name, it would be unpacked on the way: lengths are of the file.
	req.Header.Set("Accept-Encoding", "identity")
	var res *http.Response
	err = b.wait(func() (n int, err error) {
		res, err = h.cfg.Client.Do(req)
		return 0, err
	})
	if err != nil {
		cancel(nil)
		return nil, err
	}
	b.from = res.Body
	if err := accept(res, limit); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// locate appends name to the base as it is: a slash that belongs to a role's name
// stays escaped.
func (h *HTTP) locate(name string) (*url.URL, error) {
	path, err := url.PathUnescape(name)
	if err != nil {
		return nil, fmt.Errorf("locate %q: %w", name, err)
	}
	u := *h.base
	u.RawPath = strings.TrimSuffix(h.base.EscapedPath(), "/") + "/" + name
	u.Path = strings.TrimSuffix(h.base.Path, "/") + "/" + path
	return &u, nil
}

func accept(res *http.Response, limit int64) error {
	switch {
	case res.StatusCode == http.StatusNotFound || res.StatusCode == http.StatusForbidden:
		return fmt.Errorf("server answers %s: %w", res.Status, tuf.ErrNoFile)
	case res.StatusCode != http.StatusOK:
		return fmt.Errorf("server answers %s", res.Status)
	case res.ContentLength > limit:
		return fmt.Errorf("server announces %d bytes, at most %d are allowed", res.ContentLength, limit)
	}
	return nil
}

// body measures what comes in the time that was spent waiting for it.
type body struct {
	cfg    Config
	from   io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	waited time.Duration // in this window
	got    int64         // bytes, in this window
}

func (b *body) Read(p []byte) (n int, err error) {
	err = b.wait(func() (int, error) {
		n, err = b.from.Read(p)
		return n, err
	})
	return n, err
}

func (b *body) Close() error {
	b.cancel(nil)
	return b.from.Close()
}

// wait runs one read. Each window's share of bytes must come within one window of
// waiting; what comes earlier earns no time for later.
func (b *body) wait(read func() (int, error)) error {
	share := float64(b.cfg.MinRate) * b.cfg.Window.Seconds()
	if float64(b.got) >= share {
		b.waited, b.got = 0, 0
	}
	start := time.Now()
	timer := time.AfterFunc(b.cfg.Window-b.waited, func() { b.cancel(ErrSlow) })
	n, err := read()
	timer.Stop()
	b.waited += time.Since(start)
	b.got += int64(n)
	if errors.Is(err, io.EOF) {
		return err
	}
	late := b.waited >= b.cfg.Window && float64(b.got) < share
	if late || err != nil && errors.Is(context.Cause(b.ctx), ErrSlow) {
		b.cancel(ErrSlow)
		return fmt.Errorf("%w: %d bytes in %v", ErrSlow, b.got, b.waited)
	}
	return err
}

var _ tuf.Fetcher = (*HTTP)(nil)
