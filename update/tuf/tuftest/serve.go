package tuftest

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"

	"github.com/gatewarden/gatewarden/update/tuf"
)

// Metadata gives metadata files as a tuf.Fetcher.
func (r *Repo) Metadata() tuf.Fetcher { return fetcher(r.metadata) }

// TargetFiles gives target files as a tuf.Fetcher.
func (r *Repo) TargetFiles() tuf.Fetcher { return fetcher(r.target) }

type fetcher func(name string) ([]byte, error)

func (f fetcher) Fetch(_ context.Context, name string, _ int64) (io.ReadCloser, error) {
	data, err := f(name)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func missing(name string) error { return fmt.Errorf("%s: %w", name, tuf.ErrNoFile) }

func (r *Repo) metadata(name string) ([]byte, error) {
	r.Asked = append(r.Asked, name)
	role, ok := strings.CutSuffix(name, ".json")
	if !ok {
		return nil, missing(name)
	}
	version := 0
	if role != "timestamp" && (r.Root.Signed.ConsistentSnapshot || strings.HasSuffix(role, ".root")) {
		number, rest, _ := strings.Cut(role, ".")
		v, err := strconv.Atoi(number)
		if err != nil || v < 1 {
			return nil, missing(name)
		}
		version, role = v, rest
	}
	role, err := url.PathUnescape(role)
	if err != nil {
		return nil, err
	}
	files := r.Served[role]
	if version == 0 {
		version = len(files)
	}
	if version < 1 || version > len(files) {
		return nil, missing(name)
	}
	return files[version-1], nil
}

func (r *Repo) target(name string) ([]byte, error) {
	r.AskedTargets = append(r.AskedTargets, name)
	name, err := url.PathUnescape(name)
	if err != nil {
		return nil, err
	}
	hash := ""
	if r.Root.Signed.ConsistentSnapshot {
		dir, base := path.Split(name)
		hash, base, _ = strings.Cut(base, ".")
		name = dir + base
	}
	for _, role := range r.Targets {
		info, ok := role.Signed.Targets[name]
		if !ok {
			continue
		}
		for _, h := range info.Hashes {
			if data, ok := r.Files[name]; ok && (hash == "" || hash == hex.EncodeToString(h)) {
				return data, nil
			}
		}
	}
	return nil, missing(name)
}

// ServeHTTP serves /metadata/ and /targets/.
func (r *Repo) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	get, name := r.metadata, strings.TrimPrefix(req.URL.EscapedPath(), "/metadata/")
	if rest, ok := strings.CutPrefix(req.URL.EscapedPath(), "/targets/"); ok {
		get, name = r.target, rest
	}
	data, err := get(name)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	_, _ = w.Write(data)
}
