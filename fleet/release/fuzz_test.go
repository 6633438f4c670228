package release_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/fleet/release"
)

// Whatever path is asked for, an answer holds a file of the served folder whose
// path it is, or nothing of any file.
func FuzzHandlerServesTheFileOfThisNameOnly(f *testing.F) {
	work := f.TempDir()
	served := filepath.Join(work, "served")
	for _, name := range []string{
		"served/metadata/timestamp.json", "served/metadata/.tmp.json", "served/targets/policy/ab.attest.json", "served/chunks/abcd/abcd.cacnk", "served/private.json", "outside.json",
	} {
		path := filepath.Join(work, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			f.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("content of "+name), 0o644); err != nil {
			f.Fatal(err)
		}
	}
	for _, path := range []string{"/metadata/timestamp.json", "/targets/policy/ab.attest.json", "/chunks/abcd/abcd.cacnk", "/metadata/../../outside.json", "/private.json", "//", "/metadata/.tmp.json"} {
		f.Add(path)
	}
	h := release.Handler(served)
	f.Fuzz(func(t *testing.T, path string) {
		w := httptest.NewRecorder()
		req := httptest.NewRequest(http.MethodGet, "/", nil)
		req.URL.Path = path
		h.ServeHTTP(w, req)
		want := []byte("content of served/" + strings.TrimPrefix(path, "/"))
		switch {
		case w.Code == http.StatusOK && !bytes.Equal(w.Body.Bytes(), want):
			t.Errorf("%q gives %q", path, w.Body)
		case w.Code == http.StatusOK && (strings.Contains(path, "/.") || strings.Contains(path, "private")):
			t.Errorf("%q is served", path)
		case w.Code != http.StatusOK && bytes.Contains(w.Body.Bytes(), []byte("content of")):
			t.Errorf("%q answers %d with %q", path, w.Code, w.Body)
		}
	})
}
