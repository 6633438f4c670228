package update

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"strings"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/update/chunk"
	"github.com/gatewarden/gatewarden/update/release"
	"github.com/gatewarden/gatewarden/update/tuf"
)

// tufRepo is a Repo behind package tuf. It is for one goroutine at a time.
type tufRepo struct {
	cfg    tuf.Config
	client *tuf.Client
}

// NewRepo follows the repository of c, whose Dir is the agent's own: the installer
// keeps another.
func NewRepo(c tuf.Config) (Repo, error) {
	if c.Targets == nil {
		return nil, errors.New("follow update repository: a fetcher for targets is required")
	}
	client, err := tuf.New(c)
	if err != nil {
		return nil, fmt.Errorf("follow update repository: %w", err)
	}
	return &tufRepo{cfg: c, client: client}, nil
}

func (r *tufRepo) Refresh(ctx context.Context) error { return r.client.Refresh(ctx) }

// List takes names from the files that were verified, and asks the client for each
// of them: which role may speak for a path is its decision alone.
func (r *tufRepo) List(ctx context.Context, prefix string) ([]Target, error) {
	// A release that is not there makes the client load every role that could name
	// one.
	if _, err := r.client.Target(ctx, prefix+"0.0.0-0.json"); err != nil && !errors.Is(err, tuf.ErrNoTarget) {
		return nil, err
	}
	var all []Target
	for _, name := range r.client.Paths() {
		rest, ok := strings.CutPrefix(name, prefix)
		if version, is := strings.CutSuffix(rest, ".json"); !ok || !is || !isVersion(version) {
			continue
		}
		target, err := r.client.Target(ctx, name)
		if errors.Is(err, tuf.ErrNoTarget) {
			continue // named by a role that has no say there
		}
		if err != nil {
			return nil, err
		}
		all = append(all, Target{Path: name, Custom: target.Custom()})
	}
	return all, nil
}

func isVersion(s string) bool {
	_, err := release.ParseVersion(s)
	return err == nil
}

func (r *tufRepo) Read(ctx context.Context, path string, stored ...[]byte) ([]byte, error) {
	target, err := r.client.Target(ctx, path)
	if err != nil {
		return nil, err
	}
	if target.Length() > chunk.MaxIndex {
		return nil, fmt.Errorf("read %.80q: %d bytes, at most %d are read", path, target.Length(), chunk.MaxIndex)
	}
	for _, data := range stored {
		if target.Check(bytes.NewReader(data)) == nil {
			return data, nil
		}
	}
	var data bytes.Buffer
	if err := r.client.Download(ctx, target, &data); err != nil {
		return nil, err
	}
	return data.Bytes(), nil
}

// Fetch gives what Refresh and List used. Of roots the installer may want older
// ones than this client ever saw.
func (r *tufRepo) Fetch(ctx context.Context, name string, limit int64) (io.ReadCloser, error) {
	files, err := r.client.Bundle(math.MaxInt64 - 1)
	if err != nil {
		return nil, err
	}
	body, err := files.Fetch(ctx, name, limit)
	version, isRoot := strings.CutSuffix(name, ".root.json")
	if !errors.Is(err, tuf.ErrNoFile) || !isRoot || strings.Trim(version, "0123456789") != "" {
		return body, err
	}
	data, err := r.cfg.FS.ReadFile(filepath.Join(r.cfg.Dir, "roots", name), limit)
	switch {
	case err == nil:
		return io.NopCloser(bytes.NewReader(data)), nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fsx.ErrDamaged):
		return r.cfg.Metadata.Fetch(ctx, name, limit)
	}
	return nil, err
}

var _ Repo = (*tufRepo)(nil)
