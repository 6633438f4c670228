package device_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/device"
	"github.com/gatewarden/gatewarden/fleet/ear"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// payload reads the claims of a token; its signature is tested in fleet/ear.
func (w *world) payload(token string) map[string]any {
	w.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		w.Fatalf("no token: %s", token)
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	w.must(err)
	var claims map[string]any
	w.must(json.Unmarshal(raw, &claims))
	return claims
}

// TestDeviceGetsResultsOfItsOwnVerdictForOthers: with every verdict, and for the
// nonce of a reader, as long as the verdict is young.
func TestDeviceGetsResultsOfItsOwnVerdictForOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	b := w.box()
	own := b.enrol()
	v := b.attest(w.by(own), spkiOf(t, own.Leaf.PublicKey))
	with := w.payload(v.Result)
	ask := func(query string) call {
		return call{client: w.client(own), method: http.MethodGet, path: device.PathResult + query}
	}
	a := w.do(ask("?nonce=bm9uY2Utb2YtYS1yZWFkZXI"))
	if a.status != http.StatusOK || a.header.Get("Content-Type") != "application/eat+jwt" {
		t.Fatalf("%d %v %s", a.status, a.header, a.body)
	}
	asked := w.payload(string(a.body))
	if asked["eat_nonce"] != "bm9uY2Utb2YtYS1yZWFkZXI" || with["eat_nonce"] != nil {
		t.Errorf("nonces %v and %v", asked["eat_nonce"], with["eat_nonce"])
	}
	delete(asked, "eat_nonce")
	one, err := json.Marshal(with)
	w.must(err)
	other, err := json.Marshal(asked)
	w.must(err)
	if string(one) != string(other) || with["sub"] != b.id || with["ear_status"] != map[string]string{"trusted": "affirming", "degraded": "warning"}[v.Grade] {
		t.Errorf("results of one verdict (%s) differ:\n%s\n%s", v.Grade, one, other)
	}
	submod := with["submods"].(map[string]any)["gateway"].(map[string]any)
	if submod["eat_nonce"] != base64.RawURLEncoding.EncodeToString(v.Nonce) {
		t.Errorf("the appraisal is of another challenge: %v", submod)
	}
	for _, nonce := range []string{"short", strings.Repeat("a", 89), "%22%3Cscript%3E", "a+b/c==ddd"} {
		w.refused(ask("?nonce="+nonce), http.StatusBadRequest, "nonce")
	}
	w.ahead.Store(int64(ear.Life))
	w.refused(ask(""), http.StatusForbidden, wire.RuleStaleVerdict)
	w.ahead.Store(int64(ear.Life - time.Minute))
	if a := w.do(ask("")); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
}
