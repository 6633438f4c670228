package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed static templates
var embedded embed.FS

// assets serves style, script and icon under names that carry their hash: a
// browser may keep them for ever, and a new release is a new name.
type assets struct {
	hrefs map[string]string // by plain name
	files map[string][]byte // by path
}

func loadAssets() (*assets, error) {
	a := &assets{hrefs: map[string]string{}, files: map[string][]byte{}}
	entries, err := fs.ReadDir(embedded, "static")
	if err != nil {
		return nil, fmt.Errorf("list assets: %w", err)
	}
	for _, e := range entries {
		data, err := fs.ReadFile(embedded, "static/"+e.Name())
		if err != nil {
			return nil, fmt.Errorf("read asset: %w", err)
		}
		sum := sha256.Sum256(data)
		ext := path.Ext(e.Name())
		href := "/static/" + strings.TrimSuffix(e.Name(), ext) + "." + hex.EncodeToString(sum[:6]) + ext
		a.hrefs[e.Name()], a.files[href] = href, data
	}
	return a, nil
}

func (a *assets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	data, ok := a.files[r.URL.Path]
	if !ok {
		http.Error(w, "there is no such file; reload the page that named it", http.StatusNotFound)
		return
	}
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Header().Set("Content-Type", contentType(r.URL.Path))
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// contentType doesn't ask the machine's own table, which may lack or bend these.
func contentType(name string) string {
	switch path.Ext(name) {
	case ".css":
		return "text/css; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	}
	return "application/octet-stream"
}
