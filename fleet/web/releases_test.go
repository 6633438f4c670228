package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/update/release"
)

// offering is a dashboard over r and these releases.
func offering(t *testing.T, r Registry, fault error, list ...*release.Release) http.Handler {
	t.Helper()
	c := config(t, r)
	c.Releases = func(context.Context) ([]*release.Release, error) { return list, fault }
	h, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func edge(version, channel string) *release.Release {
	return &release.Release{
		Product: "edge", Channel: channel, Version: version, Epoch: 2, Hardware: []string{"EdgeBox 220", "RailGate R4"},
		Images: []release.Image{{Slot: "rootfs", Size: 64 << 20}, {Slot: "boot", For: "a", Size: 6 << 20}, {Slot: "boot", For: "b", Size: 6 << 20}},
	}
}

func TestReleasesPageSaysAllWithoutScript(t *testing.T) {
	store := openRegistry(t)
	seed(t, store)
	newest := edge("1.5.0", "beta")
	newest.Deadline, newest.Notes, newest.MinSource = now.Add(10*24*time.Hour), "Mends the hole in `modbus-bridge`.", "1.4.0"
	newest.PCRPolicies = make([]release.PCRPolicy, 8)
	page := text(get(t, offering(t, store, nil, edge("1.4.2", "stable"), edge("1.10.0", "stable"), newest), "/releases"))
	wants(t, page,
		"edge 1.5.0 channel beta 0 running 1 updating 0 failed 0 refused 1 rolled back Security epoch 2 Deadline 2026-03-24 10:42:07 UTC in 10 d PCR policies 8 "+
			"Images 76.0 MiB rootfs 64.0 MiB, boot for slot a 6.0 MiB, boot for slot b 6.0 MiB Installs over 1.4.0 and later Hardware EdgeBox 220, RailGate R4 Notes Mends the hole in modbus-bridge.",
		"edge 1.4.2 channel stable 9 running 0 updating 0 failed", "Deadline none PCR policies none")
	if a, b, c := strings.Index(page, "edge 1.10.0"), strings.Index(page, "edge 1.5.0"), strings.Index(page, "edge 1.4.2"); a > b || b > c {
		t.Errorf("order %d, %d, %d: not newest first", a, b, c)
	}
}

func TestReleasesPageSaysWhatToDoWithoutARepository(t *testing.T) {
	store := openRegistry(t)
	wants(t, text(get(t, newSite(t, store), "/releases")), "follows no update repository", "gatewarden-fleet release publish --to FOLDER", "trust/root.json", "Restart the fleet server.")
	wants(t, text(get(t, offering(t, store, nil), "/releases")), "holds no release", "It appears here by itself.")
	wants(t, text(get(t, offering(t, store, errors.New("timestamp.json: `expired`"), edge("1.0.0", "stable")), "/releases")), "was not taken in, or not whole: timestamp.json: expired", "edge 1.0.0")
	for _, target := range []string{"/", "/devices/" + deviceID("x")} {
		if !strings.Contains(ask(newSite(t, store), "GET", target).Body.String(), `<a href="/releases"`) {
			t.Errorf("%s does not lead to the releases", target)
		}
	}
}

func TestReleasesPageOfAClosedRegistryIsOneClearSentence(t *testing.T) {
	store, err := registry.OpenSQLite(t.TempDir() + "/registry.db")
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	w := ask(offering(t, store, nil, edge("1.0.0", "stable")), "GET", "/releases")
	if w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "sql") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// asked counts the queries of a releases page and the names that it asks for.
type asked struct {
	Registry
	calls, names int
}

func (a *asked) Releases(ctx context.Context, names []string) (map[string]registry.ReleaseCount, error) {
	a.calls++
	a.names = len(names)
	return a.Registry.Releases(ctx, names)
}

func TestReleasesPageIsBoundedAndNeverMarkup(t *testing.T) {
	const evil = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>`{{.}}\u202Egnp\x00"
	var list []*release.Release
	for n := range 10 * releaseRows {
		r := edge(fmt.Sprintf("1.%d.0", n), evil)
		r.Product, r.Notes, r.Hardware = evil, strings.Repeat(evil, 1000), nil
		for model := range release.MaxModels {
			r.Hardware = append(r.Hardware, fmt.Sprint(model, evil))
		}
		list = append(list, r)
	}
	a := &asked{Registry: openRegistry(t)}
	page := get(t, offering(t, a, errors.New(evil), list...), "/releases")
	if n := strings.Count(page, `class="card release"`); n != releaseRows || a.calls != 1 || a.names != releaseRows || len(page) > 500<<10 {
		t.Errorf("%d releases, %d queries for %d names, %d bytes", n, a.calls, a.names, len(page))
	}
	if m := regexp.MustCompile(`(?i)<img|<script>|[\x00-\x08\x0b-\x1f]|\x{202e}`).FindString(page); m != "" {
		t.Errorf("the page holds %q", m)
	}
	wants(t, text(page), "450 older releases left out.", "and 244 more")
}
