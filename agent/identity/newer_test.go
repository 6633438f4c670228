package identity

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/internal/wire"
)

// more adds a key of a later release to a JSON object.
func more(data []byte) []byte {
	return bytes.Replace(data, []byte("{"), []byte(`{"of_a_later_release":{"a":[1,{"b":null}]},`), 1)
}

// newer is a fleet of a later release, which puts more into each answer; agents of a
// later release put more into the requests for the paths that are named.
func (w *world) newer(paths ...string) (address string) {
	return w.front(func(rw http.ResponseWriter, r *http.Request, fleet http.Handler) {
		for _, path := range paths {
			if r.URL.Path == path {
				body, err := io.ReadAll(r.Body)
				w.must(err)
				body = more(body)
				r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			}
		}
		answer := httptest.NewRecorder()
		fleet.ServeHTTP(answer, r)
		body := answer.Body.Bytes()
		if strings.Contains(answer.Header().Get("Content-Type"), "json") {
			body = more(body)
			answer.Header().Del("Content-Length")
		}
		for key, values := range answer.Header() {
			rw.Header()[key] = values
		}
		rw.WriteHeader(answer.Code)
		_, _ = rw.Write(body)
	})
}

// TestPeersOfALaterReleaseMaySayMoreWhileTheyEnrol: challenges, verdicts, credentials
// and problems of the fleet, the request of the device.
func TestPeersOfALaterReleaseMaySayMoreWhileTheyEnrol(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g := w.gateway()
	g.fleet.API = []string{w.newer(wire.PathEnroll)}
	i := g.start()
	go func() { _ = i.Run(t.Context()) }()
	until(t, "the device waits for approval", func() bool { phase, _ := i.Status(); return strings.Contains(phase, "approve") })
	w.must(w.api.Approve(t.Context(), i.Device(), approval(true)))
	until(t, "the device has its certificate", func() bool { _, ok := i.Current(); return ok })
}

// TestEvidenceWithAKeyOfALaterReleaseIsRefusedInWords: a verdict would be on less than
// the device showed.
func TestEvidenceWithAKeyOfALaterReleaseIsRefusedInWords(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g := w.gateway()
	g.fleet.API = []string{w.newer(wire.PathEvidence)}
	i := g.start()
	if _, err := i.step(t.Context(), "test"); err == nil || !strings.Contains(err.Error(), "made for a newer version") {
		t.Errorf("got %v", err)
	}
}
