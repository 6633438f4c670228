package identity

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/wire"
)

func TestHistorySaysWhichLifeTheDeviceGotAndWhy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g, i := w.enrolled()
	g.step(i, "the broker refuses")
	w.must(i.Rotate(t.Context()))
	var whys []string
	for _, r := range g.start().History() {
		whys = append(whys, r.Why)
		if r.Gate != wire.GateFull || r.Grade != "trusted" || r.Reason == "" || r.TPMClock == 0 || r.Identity != i.Device() {
			t.Errorf("record %+v", r)
		}
	}
	if want := []string{"a person or a command asked for it", "the broker refuses", "there was no certificate"}; !slices.Equal(whys, want) {
		t.Errorf("asked for because of %q, want %q", whys, want)
	}
	if r := i.Record(); r.Serial != serial(i) || r.Why != "a person or a command asked for it" {
		t.Errorf("of the one in use: %+v", r)
	}
}

func TestTPMsClockRenewsWhereTheMachinesClockStands(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g, i := w.enrolled()
	old := serial(i)
	g.clock.set(-365*24*time.Hour, false)
	i = g.start()
	g.step(i, "")
	if serial(i) != old {
		t.Fatal("renewed without need")
	}
	w.must(g.power.SetClock(i.Record().TPMClock + uint64((5 * 24 * time.Hour).Milliseconds())))
	i = g.start()
	ev, err := i.cfg.Collect(t.Context(), wire.Challenge{Nonce: make([]byte, wire.NonceSize)}, i.Keys()...)
	w.must(err)
	i.Saw(ev.Quote)
	g.step(i, "")
	if serial(i) == old || i.Record().Why != "two thirds of the certificate's life were counted" {
		t.Errorf("after five days of power the certificate is %s, asked for because of %q", serial(i), i.Record().Why)
	}
}

func TestDeviceWithoutItsHistoryKeepsItsCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g, i := w.enrolled()
	for name, text := range map[string]string{"damaged": "{", "of another format": `{"v":9,"certificates":[]}`} {
		w.must(os.WriteFile(filepath.Join(g.dir, historyFile), []byte(text), 0o600))
		again := g.start()
		g.step(again, "")
		if r := again.Record(); serial(again) != serial(i) || r.Gate != "" || r.TPMClock != 0 || len(again.History()) != 1 {
			t.Errorf("with a history that is %s: %s, %+v", name, serial(again), r)
		}
	}
}

func TestHealedDeviceGetsItsFullLifeAtOnce(t *testing.T) {
	i := sleeper()
	i.current = &Credential{Chain: someChain(t, 1)}
	for _, c := range []struct {
		has, may    wire.Gate
		renew, want bool
	}{
		{wire.GateShort, wire.GateFull, false, true}, {wire.GateFull, wire.GateFull, false, false}, {wire.GateShort, wire.GateShort, false, false},
		{wire.GateFull, wire.GateShort, false, false}, {"", wire.GateFull, false, false}, {wire.GateFull, wire.GateQuarantine, true, true},
	} {
		i.records = []Record{{Serial: i.current.Serial(), Gate: c.has}}
		said := i.Heed(wire.Verdict{Gate: c.may, Renew: c.renew})
		kicked := false
		select {
		case <-i.kick:
			kicked = true
		default:
		}
		if said != c.want || kicked != c.want {
			t.Errorf("%s to %s: renewal asked for: %v, told: %v", c.has, c.may, kicked, said)
		}
	}
}

// takesToken is a fleet that knows one token and takes no other.
func (w *world) takesToken(good string, seen *atomic.Value) string {
	return w.front(func(rw http.ResponseWriter, r *http.Request, fleet http.Handler) {
		if r.URL.Path != wire.PathEnroll {
			fleet.ServeHTTP(rw, r)
			return
		}
		var ask wire.EnrollRequest
		if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
			w.Error(err)
		}
		seen.Store(ask.Token)
		if ask.Token != "" && ask.Token != good {
			problem(http.StatusForbidden, "token")(rw, r)
			return
		}
		ask.Token = "" // the fleet behind issues none
		body := w.json(ask)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		fleet.ServeHTTP(rw, r)
	})
}

func TestTokenThatComesLateIsUsedAndForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g := w.gateway()
	var seen atomic.Value
	g.fleet.API = []string{w.takesToken("gw-good", &seen)}
	i := g.start()
	ended := make(chan error, 1)
	go func() { _, err := i.step(t.Context(), ""); ended <- err }()
	until(t, "the device waits for approval", func() bool { phase, _ := i.Status(); return strings.Contains(phase, "approve") })
	w.must(i.UseToken("gw-good"))
	until(t, "the token is shown", func() bool { return seen.Load() == "gw-good" })
	info, err := os.Stat(filepath.Join(g.dir, tokenFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the token's file: %v, %v", info, err)
	}
	g.approve(i.Device())
	w.must(<-ended)
	if _, err := os.Stat(filepath.Join(g.dir, tokenFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the used token is still there: %v", err)
	}
	if err := i.UseToken("gw-other"); !errors.Is(err, ErrEnrolled) {
		t.Errorf("a token for an enrolled device: %v", err)
	}
}

func TestRefusedTokenDoesNotKeepADeviceOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g := w.gateway()
	var seen atomic.Value
	g.fleet.API = []string{w.takesToken("gw-good", &seen)}
	i := g.start()
	i.cfg.Token = "gw-configured-and-stale"
	if _, err := i.step(t.Context(), ""); err == nil || !g.saw("identity.token-refused") {
		t.Errorf("error %v, told of %q", err, g.events)
	}
	for _, bad := range []string{"", "two words", strings.Repeat("x", wire.MaxText+1), "line\n"} {
		if i.UseToken(bad) == nil {
			t.Errorf("%.10q is a token", bad)
		}
	}
	ended := make(chan error, 1)
	go func() { _, err := i.step(t.Context(), ""); ended <- err }()
	g.approve(i.Device())
	w.must(<-ended)
	if seen.Load() != "" || serial(i) == "" {
		t.Errorf("the token shown last is %q, the credential %q", seen.Load(), serial(i))
	}
}
