package web

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// everyCall counts all calls of a device page.
type everyCall struct {
	Registry
	calls int
}

func (c *everyCall) Device(ctx context.Context, id string) (registry.Device, error) {
	c.calls++
	return c.Registry.Device(ctx, id)
}

func (c *everyCall) LastVerdict(ctx context.Context, id string) (registry.Verdict, error) {
	c.calls++
	return c.Registry.LastVerdict(ctx, id)
}

func (c *everyCall) Firmware(ctx context.Context, model string) ([]json.RawMessage, error) {
	c.calls++
	return c.Registry.Firmware(ctx, model)
}

func (c *everyCall) Health(ctx context.Context, id string) (registry.Message, error) {
	c.calls++
	return c.Registry.Health(ctx, id)
}

func (c *everyCall) Certificates(ctx context.Context, id string) ([]registry.Certificate, error) {
	c.calls++
	return c.Registry.Certificates(ctx, id)
}

func (c *everyCall) Commands(ctx context.Context, id string, limit int) ([]registry.CommandRecord, error) {
	c.calls++
	return c.Registry.Commands(ctx, id, limit)
}

func (c *everyCall) Events(ctx context.Context, id string, before int64, limit int) ([]registry.Event, error) {
	c.calls++
	return c.Registry.Events(ctx, id, before, limit)
}

func (c *everyCall) Updates(ctx context.Context, id string, limit int) ([]registry.UpdateRecord, error) {
	c.calls++
	return c.Registry.Updates(ctx, id, limit)
}

func TestEveryAnswerCarriesTheContentPolicy(t *testing.T) {
	store := openRegistry(t)
	ids := seed(t, store)
	h := newSite(t, store)
	style := regexp.MustCompile(`/static/app\.[0-9a-f]+\.css`).FindString(get(t, h, "/"))
	for _, r := range []struct{ method, target string }{
		{"GET", "/"}, {"GET", "/devices/" + ids["ferry-7"]}, {"GET", "/releases"}, {"GET", "/nowhere"}, {"GET", "/?state=x"}, {"GET", "/healthz"}, {"GET", style}, {"GET", "/static/none.js"},
		{"HEAD", "/events"}, {"GET", "/events?device=x"}, {"POST", "/"}, {"OPTIONS", "/"},
	} {
		w := ask(h, r.method, r.target)
		policy := w.Header().Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"} {
			if !strings.Contains(policy, part) {
				t.Errorf("%s %s: policy %q lacks %q", r.method, r.target, policy, part)
			}
		}
		if strings.Contains(policy, "unsafe") || w.Header().Get("X-Content-Type-Options") != "nosniff" || w.Header().Get("X-Frame-Options") != "DENY" {
			t.Errorf("%s %s: headers %v", r.method, r.target, w.Header())
		}
	}
}

// A page that needed an exception from the policy would be broken in a browser.
func TestPagesHaveNoInlineScriptOrStyle(t *testing.T) {
	store := openRegistry(t)
	ids := seed(t, store)
	h := newSite(t, store)
	inline := regexp.MustCompile(`(?i)<style|\sstyle\s*=|\son[a-z]+\s*=|javascript:|<script[^>]*>[^<]|https?://`)
	for _, target := range []string{"/", "/releases", "/devices/" + ids["pump-house-3"], "/devices/" + ids["weir-1"], "/devices/" + ids["ferry-7"]} {
		page := strings.ReplaceAll(get(t, h, target), "http://www.w3.org/", "")
		if m := inline.FindString(page); m != "" {
			t.Errorf("%s holds %q", target, m)
		}
	}
}

func TestRequestsThatCouldChangeSomethingAreRefused(t *testing.T) {
	h := newSite(t, openRegistry(t))
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "BREW"} {
		for _, target := range []string{"/", "/releases", "/devices/" + deviceID("x"), "/events", "/healthz", "/static/app.css"} {
			if w := ask(h, method, target); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: %d, Allow %q", method, target, w.Code, w.Header().Get("Allow"))
			}
		}
	}
}

func TestForeignHostIsRefused(t *testing.T) {
	c := config(t, openRegistry(t))
	c.Hosts = []string{"fleet.example.org"}
	h, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]int{
		"127.0.0.1": 200, "127.0.0.1:9000": 200, "127.8.8.8:80": 200, "localhost:9000": 200, "LocalHost": 200, "[::1]:9000": 200, "[::1]": 200,
		"fleet.example.org": 200, "fleet.example.org:443": 200,
		"evil.example": 421, "evil.example:9000": 421, "127.0.0.1.evil.example": 421, "localhost.evil.example": 421, "192.0.2.1": 421, "0.0.0.0:9000": 421,
		"": 421, "localhost@evil.example": 421, "xfleet.example.org": 421, "[::1%25eth0]:80": 421, "127.0.0.1:80:80": 421,
	} {
		for _, target := range []string{"/", "/healthz"} {
			r := httptest.NewRequest("GET", target, nil)
			r.Host = host
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != want {
				t.Errorf("host %q: %d, want %d", host, w.Code, want)
			}
			if want != 200 && strings.Contains(w.Body.String(), "north-water") {
				t.Errorf("host %q learns the fleet's name", host)
			}
		}
	}
}

// Whatever a device or an operator can put into the registry is text on a page.
func TestHostileValuesAreNeverMarkup(t *testing.T) {
	const evil = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>`</code><b onclick=x>`{{.}}\u202Egnp\x00\x1b[31m"
	store := openRegistry(t)
	s := seeder{t, store, context.Background()}
	id := s.enroll(gateway{host: evil, model: evil, software: evil, state: registry.Active, grade: "untrusted", certLife: 1,
		says: []string{"untrusted: " + evil, changedPrefix + evil}, rules: []attest.RuleResult{
			{Rule: evil, Effect: attest.Untrusted, Text: evil}, {Rule: evil, Effect: attest.Degraded, Text: evil}, held(evil, evil), {Rule: evil, Effect: attest.Trusted, Text: evil},
		}})
	s.ok(s.AddEvent(s.ctx, registry.Event{Device: id, At: now, Kind: evil, Severity: evil, Text: evil}))
	s.ok(s.AddCommand(s.ctx, registry.CommandRecord{Hash: evil, ID: evil, Device: id, Envelope: []byte("{}"), Verb: evil, Reason: evil, Signers: []string{evil}, Created: now}))
	s.ok(s.PutReceipt(s.ctx, registry.ReceiptRecord{Device: id, Envelope: evil, Outcome: evil, Rule: evil, Text: evil, Received: now, Receipt: []byte("{}")}))
	s.ok(s.AddCertificate(s.ctx, registry.Certificate{Serial: evil, Device: id, Identity: evil, Profile: evil, NotBefore: now, NotAfter: now.Add(1e9), IssuedAt: now, DER: []byte{1}}, ""))
	_, err := s.RevokeCertificates(s.ctx, id, "", evil, now)
	s.ok(err)
	body, err := json.Marshal(wire.Health{Version: 1, Findings: []wire.Finding{{Check: evil, Status: evil, Summary: evil}}})
	s.ok(err)
	_, _, err = s.Accept(s.ctx, registry.Message{Device: id, Stream: "evil", Seq: 9, Kind: "health", Received: now, Body: body})
	s.ok(err)
	device, err := s.Device(s.ctx, id)
	s.ok(err)
	set, err := json.Marshal(attest.FirmwareSet{Name: evil, Measurements: []attest.Measurement{{Type: evil, Text: evil}}})
	s.ok(err)
	s.ok(s.AddFirmware(s.ctx, device.Model, evil, "h", set, evil, now))
	last, err := s.LastVerdict(s.ctx, id)
	s.ok(err)
	last.Explanation, last.Firmware = append(last.Explanation, proposedPrefix+evil), &registry.Measured{Hash: evil, Body: []byte("{}"), Text: evil}
	s.ok(s.AddVerdict(s.ctx, last))
	h := newSite(t, store)
	raw := regexp.MustCompile(`(?i)<img|<script>|<b onclick|\{\{|[\x00-\x08\x0b-\x1f]|\x{202e}`)
	for _, target := range []string{"/", "/?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E", "/?model=%22%3E%3Cimg%20src=x%3E", "/devices/" + id, "/devices/%3Cscript%3E"} {
		page := ask(h, "GET", target).Body.String()
		page = strings.ReplaceAll(page, "{{.}}", "") // text, as it should be
		if m := raw.FindString(page); m != "" {
			t.Errorf("%s holds %q", target, m)
		}
	}
	page := get(t, h, "/devices/"+id)
	if n := strings.Count(page, "&lt;script&gt;"); n < 20 {
		t.Errorf("only %d of the hostile values are on the page: the test has lost its subject", n)
	}
}
