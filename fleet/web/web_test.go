package web

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
)

// config is that of a dashboard over r, whose log ends up in the test's.
func config(tb testing.TB, r Registry) Config {
	return Config{Registry: r, Now: func() time.Time { return now }, Fleet: "north-water", Version: "0.1.0", Log: slog.New(slog.NewTextHandler(tb.Output(), nil))}
}

func newSite(tb testing.TB, r Registry) http.Handler {
	tb.Helper()
	h, err := New(config(tb, r))
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

// ask sends one request as a browser on the same machine does.
func ask(h http.Handler, method, target string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	r.Host = "127.0.0.1:8080"
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func get(tb testing.TB, h http.Handler, target string) string {
	tb.Helper()
	w := ask(h, "GET", target)
	if w.Code != http.StatusOK {
		tb.Fatalf("GET %s: status %d\n%s", target, w.Code, w.Body)
	}
	return w.Body.String()
}

// text is what a browser without script and style shows of a page.
func text(page string) string {
	page = page[strings.Index(page, "<main"):]
	page = regexp.MustCompile(`</?(bdi|code|time|b|a)\b[^>]*>`).ReplaceAllString(page, "")
	page = regexp.MustCompile(`<[^>]*>`).ReplaceAllString(page, " ")
	for from, to := range map[string]string{"&#39;": "'", "&#34;": `"`, "&amp;": "&", "&lt;": "<", "&gt;": ">"} {
		page = strings.ReplaceAll(page, from, to)
	}
	return regexp.MustCompile(` ([.,:])`).ReplaceAllString(strings.Join(strings.Fields(page), " "), "$1")
}

func wants(tb testing.TB, page string, words ...string) {
	tb.Helper()
	for _, w := range words {
		if !strings.Contains(page, w) {
			tb.Errorf("page lacks %q:\n%s", w, page)
		}
	}
}

func TestNewRefusesZeroValues(t *testing.T) {
	full := config(t, openRegistry(t))
	if _, err := New(full); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"registry": func(c *Config) { c.Registry = nil }, "clock": func(c *Config) { c.Now = nil }, "fleet": func(c *Config) { c.Fleet = "" },
		"version": func(c *Config) { c.Version = "" }, "log": func(c *Config) { c.Log = nil },
	} {
		c := full
		spoil(&c)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: error %v", name, err)
		}
	}
}

func TestFleetPageSaysAllWithoutScript(t *testing.T) {
	store := openRegistry(t)
	h := newSite(t, store)
	wants(t, text(get(t, h, "/")), "No gateways yet.", "No gateway has enrolled yet", "Nothing has happened yet.")
	ids := seed(t, store)
	page := text(get(t, h, "/"))
	wants(t, page,
		"9 of 13 gateways trusted; 1 untrusted, 1 degraded, 2 not judged yet. 2 waiting for an operator's approval.",
		"All 14", "Untrusted 1", "Trusted 10", "Pending 2", "Quarantined 1", "Revoked 1",
		"pump-house-3 "+ids["pump-house-3"]+" Untrusted Quarantined – agent 1.4.2 EdgeBox 220 12 s ago 4 s ago quarantine, 23 h left",
		"substation-12 "+ids["substation-12"]+" Degraded Active edge 1.4.2 agent 1.4.2 RailGate R4 19 s ago 11 s ago short, 21 h left",
		"ferry-7 "+ids["ferry-7"]+" Not judged Pending – agent 1.4.2 EdgeBox 220 never 1 min 35 s ago none yet",
		"12 h left, renewal is late", "Revoked edge 1.2.0 agent 1.2.0 EdgeBox 220 41 d ago 41 d ago revoked",
		"Quarantine certificate issued for 1 d", "pump-house-3 · 10:41:27")
	if strings.Index(page, "pump-house-3") > strings.Index(page, "ferry-7") || strings.Index(page, "ferry-7") > strings.Index(page, "weir-1") {
		t.Error("a fleet of one page is not shown worst first")
	}
}

func TestFilterFindsWhatItsCountSays(t *testing.T) {
	store := openRegistry(t)
	seed(t, store)
	h := newSite(t, store)
	tile := regexp.MustCompile(`(?s)<a href="(/[^"]*)"[^>]*>(?:<svg[^>]*>.*?</svg>)?<span>([^<]*)</span> <b>(\d+)</b>`)
	found := tile.FindAllStringSubmatch(get(t, h, "/"), -1)
	if len(found) != 7 {
		t.Fatalf("%d counts, want 7", len(found))
	}
	for _, m := range found {
		page := get(t, h, strings.ReplaceAll(m[1], "&amp;", "&"))
		if n := strings.Count(page, `scope="row"`); fmt.Sprint(n) != m[3] {
			t.Errorf("%s: %d rows, the count says %s", m[2], n, m[3])
		}
	}
	wants(t, text(get(t, h, "/?q=pump")), "pump-house-1", "pump-house-2", "pump-house-3", "Clear")
	wants(t, text(get(t, h, "/?q=nowhere")), "No gateway matches this filter.")
	if page := text(get(t, h, "/?model=RailGate+R4")); strings.Contains(page, "EdgeBox") {
		t.Error("the model filter lets another model pass")
	}
}

func TestBadFilterIsRefusedWithASentence(t *testing.T) {
	h := newSite(t, openRegistry(t))
	for target, says := range map[string]string{
		"/?state=sleeping": "state is one of pending", "/?grade=A": "grade is one of untrusted", "/?after=x": "after a device id",
		"/?q=" + strings.Repeat("a", maxQuery+1): "at most 100 characters", "/?model=" + strings.Repeat("a", maxQuery+1): "at most 100 characters",
	} {
		w := ask(h, "GET", target)
		if w.Code != http.StatusBadRequest {
			t.Errorf("%s: status %d", target, w.Code)
		}
		wants(t, text(w.Body.String()), says, "Back to the fleet")
	}
}

func TestDevicePageSaysAllWithoutScript(t *testing.T) {
	store := openRegistry(t)
	ids := seed(t, store)
	h := newSite(t, store)
	for host, words := range map[string][]string{
		"pump-house-3": {"Quarantined", "Untrusted Kernel command line: quiet became quiet init=/bin/sh, PCR 12, event 41; not part of any release",
			"Rule command-line. Judged 12 s ago (2026-03-14 10:41:55 UTC). It may hold a quarantine certificate only",
			"What changed since the last trusted boot kernel command line: root=/dev/disk/by-partlabel/slot-a ro quiet became root=/dev/disk/by-partlabel/slot-a ro quiet init=/bin/sh",
			"What held: 6 rules", "Noted Secure Boot is off", "Booted: the chip's reset counter rose from 17 to 18", "failed-units critical 2 units have failed: modbus-bridge.service",
			"Reported 4 s ago.", "quarantine valid", "full revoked", "revoked 40 s ago: verdict is untrusted", "maker's certificate verified", "AK name 000b", "by mira, 89 d ago",
			"reboot asked because: apply the kernel update Refused role: joe may not run reboot", "Done: pong", "Failed: sent 112 of 200", "ping waiting for the gateway",
			"2026-01 (F.21): 3 measurements", "EV_S_CRTM_VERSION F.21"},
		"substation-12": {"Degraded Firmware: PCR 0, event 3", "short life only", "firmware version: F.21 became F.23", "None yet. The values that a gateway of this model shows are frozen"},
		"ferry-7":       {"Waiting for approval Its TPM is genuine", "gatewarden-fleet devices approve " + ids["ferry-7"], "No certificate was issued yet.", "No health message has arrived yet.", "No command was sent"},
		"depot-north":   {"Waiting for approval", "Approve it only if you know this machine", "chip has no EK certificate"},
		"old-lab-2":     {"Revoked This gateway was taken out of the fleet"},
		"tunnel-east":   {"Trusted Release 1.4.2, firmware 2026-01 (F.21) approved", "Nothing was heard from it for 3 d: the verdict is as old.", "full life", "renewal is late"},
		"weir-1":        {"Trusted Release 1.4.2", "Certificate renewed for 7 d"},
	} {
		t.Run(host, func(t *testing.T) { wants(t, text(get(t, h, "/devices/"+ids[host])), append(words, host)...) })
	}
}

// TestGatewayWithoutTPMIsMarkedWhereverItIsShown: before its approval and after.
func TestGatewayWithoutTPMIsMarkedWhereverItIsShown(t *testing.T) {
	store := openRegistry(t)
	id := deviceID("bare")
	if _, _, err := store.Enroll(t.Context(), registry.Device{ID: id, Model: "old box", Hostname: "bare", SoftwareKeys: true, EKName: []byte{0xff, 0xff, 1}, Created: now}); err != nil {
		t.Fatal(err)
	}
	h := newSite(t, store)
	wants(t, text(get(t, h, "/")), "software keys")
	wants(t, text(get(t, h, "/devices/"+id)), "It has no TPM: its keys are software keys", "devices approve "+id+" --accept-software", "none: software keys", "First key ffff01")
	if err := store.SetState(t.Context(), id, registry.Active, "olga", "test", now); err != nil {
		t.Fatal(err)
	}
	wants(t, text(get(t, h, "/")), "software keys")
	wants(t, text(get(t, h, "/devices/"+id)), "none: software keys nothing proves what it booted")
}

func TestUnknownPagesSaySo(t *testing.T) {
	h := newSite(t, openRegistry(t))
	for target, says := range map[string]string{
		"/nowhere": "There is no such page", "/devices/": "There is no such page", "/devices/" + deviceID("nobody"): "There is no such gateway",
		"/devices/gw-short": "There is no such gateway", "/devices/q-" + deviceID("x"): "There is no such gateway",
	} {
		w := ask(h, "GET", target)
		if w.Code != http.StatusNotFound {
			t.Errorf("%s: status %d", target, w.Code)
		}
		wants(t, text(w.Body.String()), says)
	}
}

func TestClosedRegistryIsOneClearSentence(t *testing.T) {
	store, err := registry.OpenSQLite(t.TempDir() + "/registry.db")
	if err != nil {
		t.Fatal(err)
	}
	h := newSite(t, store)
	if w := ask(h, "GET", "/healthz"); w.Code != http.StatusOK || w.Body.String() != "ok\n" {
		t.Errorf("healthz: %d %s", w.Code, w.Body)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"/", "/devices/" + deviceID("x")} {
		w := ask(h, "GET", target)
		if w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "sql") {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
		wants(t, text(w.Body.String()), "The registry did not answer")
	}
	if w := ask(h, "GET", "/healthz"); w.Code != http.StatusServiceUnavailable {
		t.Errorf("healthz of a closed registry: %d", w.Code)
	}
}

// counting counts the calls of one page.
type counting struct {
	Registry
	calls int
}

func (c *counting) Counts(ctx context.Context) ([]registry.Count, error) {
	c.calls++
	return c.Registry.Counts(ctx)
}

func (c *counting) Devices(ctx context.Context, f registry.Filter) ([]registry.DeviceRow, error) {
	c.calls++
	return c.Registry.Devices(ctx, f)
}

func (c *counting) Events(ctx context.Context, device string, before int64, limit int) ([]registry.Event, error) {
	c.calls++
	return c.Registry.Events(ctx, device, before, limit)
}

func TestPageOfTenThousandDevicesIsBounded(t *testing.T) {
	const fleet = 10_000
	many := make([]registry.DeviceRow, fleet)
	for i := range many {
		many[i].ID, many[i].State = "gw-"+strings.Map(digit, fmt.Sprintf("%016d", i)), registry.Active
	}
	c := &counting{Registry: paged{Registry: openRegistry(t), rows: many}}
	h := newSite(t, c)
	next, pages, seen := "/", 0, 0
	link := regexp.MustCompile(`<a href="([^"]*)" rel="next"`)
	for next != "" && pages < 3 {
		c.calls = 0
		page := get(t, h, next)
		if rows := strings.Count(page, `scope="row"`); rows != pageSize {
			t.Errorf("page %d has %d rows", pages, rows)
		}
		if len(page) > 100<<10 || c.calls > 3 {
			t.Errorf("page %d costs %d bytes and %d queries", pages, len(page), c.calls)
		}
		seen += strings.Count(page, `scope="row"`)
		if !strings.Contains(page, many[seen-1].ID) || strings.Contains(page, many[seen].ID) {
			t.Errorf("page %d does not end with device %d", pages, seen)
		}
		next = ""
		if m := link.FindStringSubmatch(page); m != nil {
			next = strings.ReplaceAll(m[1], "&amp;", "&")
		}
		pages++
	}
	if pages != 3 {
		t.Errorf("paging ended after page %d", pages)
	}
}

// digit writes numbers with letters that device ids may have, in the same order.
func digit(r rune) rune { return r - '0' + 'a' }

// paged is a registry with rows in it, without the time to enrol them.
type paged struct {
	Registry
	rows []registry.DeviceRow
}

func (p paged) Counts(context.Context) ([]registry.Count, error) {
	return []registry.Count{{State: registry.Active, N: len(p.rows)}}, nil
}

func (p paged) Devices(_ context.Context, f registry.Filter) ([]registry.DeviceRow, error) {
	from := 0
	for from < len(p.rows) && p.rows[from].ID <= f.After {
		from++
	}
	return p.rows[from:min(from+f.Limit, len(p.rows))], nil
}

func TestDevicePageCostsEightCalls(t *testing.T) {
	store := openRegistry(t)
	ids := seed(t, store)
	c := &everyCall{Registry: store}
	if page := get(t, newSite(t, c), "/devices/"+ids["pump-house-3"]); c.calls != 8 || len(page) > 64<<10 {
		t.Errorf("%d calls, %d bytes", c.calls, len(page))
	}
}

func TestHeadAnswersLikeGetWithoutBody(t *testing.T) {
	h := newSite(t, openRegistry(t))
	for _, target := range []string{"/", "/events", "/healthz"} {
		server := httptest.NewServer(h)
		r, err := http.Head(server.URL + target)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || r.StatusCode != http.StatusOK || len(body) != 0 {
			t.Errorf("HEAD %s: %d, %d bytes, %v", target, r.StatusCode, len(body), err)
		}
		r.Body.Close()
		server.Close()
	}
}

func TestAssetsAreImmutableAndNamedByTheirHash(t *testing.T) {
	h := newSite(t, openRegistry(t))
	hrefs := regexp.MustCompile(`"(/static/[^"]+)"`).FindAllStringSubmatch(get(t, h, "/"), -1)
	if len(hrefs) != 3 {
		t.Fatalf("%d assets, want style, script and icon", len(hrefs))
	}
	for _, m := range hrefs {
		w := ask(h, "GET", m[1])
		if w.Code != http.StatusOK || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") || strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
			t.Errorf("%s: %d %v", m[1], w.Code, w.Header())
		}
	}
	for _, target := range []string{"/static/", "/static/app.css", "/static/..%2ftemplates/layout.html", "/static/" + url.PathEscape("../web.go")} {
		if w := ask(h, "GET", target); w.Code == http.StatusOK {
			t.Errorf("%s is served", target)
		}
	}
}
