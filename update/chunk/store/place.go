package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"path/filepath"

	"github.com/gatewarden/gatewarden/internal/fsx"
)

// dir is a store in a folder, say on a USB stick.
type dir struct {
	fs   *fsx.FS
	root string
}

// Dir returns the store in the folder root. Symbolic links as chunks are not
// followed.
func Dir(files *fsx.FS, root string) (Place, error) {
	if files == nil || root == "" {
		return nil, fmt.Errorf("open chunk store: file system and folder are required")
	}
	return &dir{files, root}, nil
}

func (d *dir) Get(ctx context.Context, path string, buf []byte) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	data, err := d.fs.ReadFile(filepath.Join(d.root, filepath.FromSlash(path)), int64(len(buf)))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, fmt.Errorf("%w: %w", ErrAbsent, err)
	case errors.Is(err, fsx.ErrDamaged):
		return 0, fmt.Errorf("%w: %w", ErrDamaged, err)
	case err != nil:
		return 0, err
	}
	return copy(buf, data), nil
}

// HTTPConfig is what a store behind a web server needs. All fields are required.
type HTTPConfig struct {
	Base   string       // address of the store's folder, https://host/path
	Client *http.Client // its Transport should refuse what the caller doesn't trust
	Budget *Budget
}

type web struct {
	base   *url.URL
	client *http.Client
	budget *Budget
}

// HTTP returns the store behind a web server.
func HTTP(cfg HTTPConfig) (Place, error) {
	if cfg.Client == nil || cfg.Budget == nil {
		return nil, fmt.Errorf("open chunk store: client and budget are required")
	}
	base, err := url.Parse(cfg.Base)
	if err != nil {
		return nil, fmt.Errorf("open chunk store: %w", err)
	}
	if base.Scheme != "https" && base.Scheme != "http" || base.Host == "" || base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("open chunk store %q: want https://host/path", cfg.Base)
	}
	return &web{base, cfg.Client, cfg.Budget}, nil
}

func (w *web) Get(ctx context.Context, path string, buf []byte) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.base.JoinPath(path).String(), nil)
	if err != nil {
		return 0, err
	}
	// Go's client would otherwise ask for gzip and unpack without a limit.
	req.Header.Set("Accept-Encoding", "identity")
	res, err := w.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = res.Body.Close() }()
	switch {
	case res.StatusCode == http.StatusNotFound || res.StatusCode == http.StatusGone:
		return 0, fmt.Errorf("%w: %s", ErrAbsent, res.Status)
	case res.StatusCode != http.StatusOK:
		return 0, fmt.Errorf("server said %s", res.Status)
	case res.ContentLength > int64(len(buf)):
		return 0, fmt.Errorf("%w: %d bytes, at most %d are read", ErrDamaged, res.ContentLength, len(buf))
	}
	return fill(w.budget.Reader(res.Body), buf)
}

// fill reads r to its end into buf.
func fill(r io.Reader, buf []byte) (int, error) {
	n, err := io.ReadFull(r, buf)
	switch {
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return n, nil
	case err != nil:
		return 0, err
	}
	if extra, err := r.Read(make([]byte, 1)); extra != 0 || err != io.EOF {
		return 0, fmt.Errorf("%w: more than %d bytes", ErrDamaged, len(buf))
	}
	return n, nil
}
