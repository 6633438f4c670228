package release

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strings"
)

// Handler serves the folder that Publish wrote to: /metadata/, /targets/ and
// /chunks/ below where it is mounted; strip what is before. It needs no client
// certificate: all that it serves is signed or named by a signed hash, and a device
// that can't prove itself must still get a good release. It lists no folder and
// follows no link out of dir, which may appear after the server started.
func Handler(dir string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodGet && req.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
			return
		}
		name := strings.TrimPrefix(req.URL.Path, "/")
		if !servable(name) {
			http.NotFound(w, req)
			return
		}
		serveFile(w, req, dir, name)
	})
}

func serveFile(w http.ResponseWriter, req *http.Request, dir, name string) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		sorry(w, req, err)
		return
	}
	defer root.Close()
	info, err := root.Stat(name) // before Open: a pipe would block it
	if err != nil || !info.Mode().IsRegular() {
		sorry(w, req, errors.Join(fs.ErrNotExist, err))
		return
	}
	f, err := root.Open(name)
	if err != nil {
		sorry(w, req, err)
		return
	}
	defer f.Close()
	// Only the timestamp ever changes under its name (TUF 1.0.34, section 6.2).
	cache := "public, max-age=31536000, immutable"
	if name == "metadata/timestamp.json" {
		cache = "no-cache"
	}
	w.Header().Set("Cache-Control", cache)
	w.Header().Set("Content-Type", contentType(name))
	w.Header().Set("X-Content-Type-Options", "nosniff")
	http.ServeContent(w, req, "", info.ModTime(), f)
}

func contentType(name string) string {
	if strings.HasSuffix(name, ".json") {
		return "application/json"
	}
	return "application/octet-stream"
}

// sorry tells a missing file, which a device may remember, from a fault here, which
// it must not.
func sorry(w http.ResponseWriter, req *http.Request, err error) {
	if errors.Is(err, fs.ErrNotExist) {
		http.NotFound(w, req)
		return
	}
	http.Error(w, "the file can't be read", http.StatusInternalServerError)
}

// servable accepts the names that Publish gives to files, and no temporary ones.
func servable(name string) bool {
	top, rest, ok := strings.Cut(name, "/")
	if !ok || path.Clean(name) != name || len(name) > maxName {
		return false
	}
	for part := range strings.SplitSeq(rest, "/") {
		if part == "" || strings.HasPrefix(part, ".") {
			return false
		}
	}
	switch top {
	case "metadata":
		return strings.HasSuffix(rest, ".json") && !strings.Contains(rest, "/")
	case "targets":
		return true
	case "chunks":
		return strings.HasSuffix(rest, ".cacnk")
	}
	return false
}
