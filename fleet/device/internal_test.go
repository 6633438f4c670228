package device

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// The journal refuses what was true when the request came in.
func TestDeviceRevokedInMidRequestIsToldSo(t *testing.T) {
	store, err := registry.OpenSQLite(filepath.Join(t.TempDir(), "registry.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	a := &api{Config: Config{Registry: store}}
	const id = "gw-aaaaaaaaaaaaaaaa"
	if _, _, err := store.Enroll(t.Context(), registry.Device{ID: id, EKName: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	journalled := store.AddCertificate(t.Context(), registry.Certificate{Serial: "1", Device: id, DER: []byte("x")}, "")
	for state, rule := range map[string]string{registry.Pending: "pending", registry.Revoked: "revoked"} {
		if err := store.SetState(t.Context(), id, state, "olga", "test", time.Now()); err != nil {
			t.Fatal(err)
		}
		var declined *refusal
		if err := a.notIssued(t.Context(), id, journalled); !errors.As(err, &declined) || declined.Rule != rule || declined.Status != 403 {
			t.Errorf("%s: %v", state, err)
		}
	}
	broken := errors.New("disk")
	if err := a.notIssued(t.Context(), id, broken); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

func TestRateLimitHoldsPerSourceInBoundedMemory(t *testing.T) {
	r, now := newRate(), time.Unix(1_800_000_000, 0)
	for n := range enrollBurst {
		if wait := r.allow("192.0.2.1:1000", now); wait != 0 {
			t.Fatalf("request %d waits %s", n, wait)
		}
	}
	if wait := r.allow("192.0.2.1:2000", now); wait <= 0 || wait > enrollEvery {
		t.Errorf("the next waits %s", wait)
	}
	if wait := r.allow("192.0.2.2:1000", now); wait != 0 {
		t.Errorf("another address waits %s", wait)
	}
	if wait := r.allow("192.0.2.1:1000", now.Add(enrollEvery)); wait != 0 {
		t.Errorf("after %s it waits %s", enrollEvery, wait)
	}
	for range enrollBurst {
		r.allow("[2001:db8::1]:1", now)
	}
	if wait := r.allow("[2001:db8::ffff:1]:1", now); wait == 0 {
		t.Error("another address of the same /64 has an allowance of its own")
	}
	if wait := r.allow("[::ffff:192.0.2.9]:1", now); wait != 0 || sourceOf("[::ffff:192.0.2.9]:1") != sourceOf("192.0.2.9:7") {
		t.Error("an IPv4 address written as IPv6 is another source")
	}
	for n := range 3 * maxSources {
		r.allow(fmt.Sprintf("10.%d.%d.%d:1", n>>16, n>>8&0xff, n&0xff), now)
	}
	if len(r.sources) > maxSources+1 {
		t.Errorf("%d sources remembered", len(r.sources))
	}
	if wait := r.allow("198.51.100.1:1", now.Add(time.Hour)); wait != 0 {
		t.Errorf("an hour after the flood a newcomer waits %s", wait)
	}
}

// A person takes the device out between journal and state: the server does not
// bring it back.
func TestRevocationWhileACertificateIsIssuedIsNotUndone(t *testing.T) {
	store, err := registry.OpenSQLite(filepath.Join(t.TempDir(), "registry.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	a := &api{Config: Config{Registry: store, Now: time.Now, Drop: func(string) {}}}
	const id = "gw-aaaaaaaaaaaaaaaa"
	read, _, err := store.Enroll(t.Context(), registry.Device{ID: id, EKName: []byte("x"), AKPublic: []byte("old")})
	if err != nil {
		t.Fatal(err)
	}
	read.State = registry.Quarantined // as it was when the request came in
	for state, rule := range map[string]string{registry.Revoked: "revoked", registry.Decommissioned: "revoked", registry.Pending: "pending"} {
		if err := store.SetState(t.Context(), id, state, "olga", "sold", time.Now()); err != nil {
			t.Fatal(err)
		}
		var declined *refusal
		if err := a.settle(t.Context(), caller{device: read}, registry.Certificate{Serial: "1"}, wire.GateFull); !errors.As(err, &declined) || declined.Rule != rule {
			t.Errorf("%s: %v", state, err)
		}
		if _, err := a.newAK(t.Context(), read, registry.Ticket{AKPublic: []byte("new")}); state != registry.Pending && (!errors.As(err, &declined) || declined.Rule != rule) {
			t.Errorf("%s, new attestation key: %v", state, err)
		}
		if d, err := store.Device(t.Context(), id); err != nil || d.State != state {
			t.Errorf("%s became %s, %v", state, d.State, err)
		}
	}
}

func TestRefusalsAreOnRecordOnceAMinuteForEachRule(t *testing.T) {
	store, err := registry.OpenSQLite(filepath.Join(t.TempDir(), "registry.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	now := time.Unix(1_800_000_000, 0)
	a := &api{Config: Config{Registry: store, Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler)}}
	const id = "gw-aaaaaaaaaaaaaaaa"
	if _, _, err := store.Enroll(t.Context(), registry.Device{ID: id, EKName: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	ask := func(about, rule string) {
		h := a.handle(func(_ http.ResponseWriter, r *http.Request) error {
			isAbout(r.Context(), about)
			return refuse(http.StatusForbidden, rule, "no", "go away")
		})
		h(httptest.NewRecorder(), httptest.NewRequestWithContext(gone, http.MethodPost, "/", nil))
	}
	for range 50 {
		ask(id, "token")
		ask(id, "csr")
		ask("gw-nobody", "token")
		ask("", "path")
	}
	now = now.Add(refusalSpan)
	ask(id, "token")
	entries, err := store.Audit(t.Context(), 0, 0)
	if err != nil || len(entries) != 3 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	if e := entries[0]; e.Action != "refuse.token" || e.Device != id || e.By != registry.Fleet || e.Text != "no" {
		t.Errorf("%+v", e)
	}
	for n := range 3 * maxRefusals {
		a.refusals.fresh(fmt.Sprint(n), "x", now)
	}
	if len(a.refusals.last) > maxRefusals {
		t.Errorf("%d remembered", len(a.refusals.last))
	}
}
