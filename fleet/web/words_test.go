package web

import (
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/wire"
)

func TestTimesReadAsPeopleSayThem(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "just now", 999 * time.Millisecond: "just now", 12 * time.Second: "12 s ago", 95 * time.Second: "1 min 35 s ago", 26 * time.Minute: "26 min ago",
		2 * time.Hour: "2 h ago", 125 * time.Minute: "2 h 5 min ago", 30 * time.Hour: "1 d 6 h ago", 400 * 24 * time.Hour: "400 d ago", -3 * time.Hour: "in 3 h",
	} {
		if got := at(now.Add(-d), now).Ago; got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
	if at(time.Time{}, now).Known {
		t.Error("the zero time is known")
	}
	east := time.FixedZone("east", 3*3600)
	if m := at(now.In(east), now); m.Full != "2026-03-14 10:42:07 UTC" || m.Clock != "10:42:07" {
		t.Errorf("not UTC: %+v", m)
	}
}

func TestCertificateLifeInWords(t *testing.T) {
	const week = 7 * 24 * time.Hour
	for age, want := range map[time.Duration]life{
		0:                   {toneOK, true, 100, "7 d left"},
		week / 2:            {toneOK, true, 50, "3 d 12 h left"},
		week - 20*time.Hour: {toneWarn, true, 11, "20 h left, renewal is late"},
		week:                {toneBad, true, 0, "expired 0 s ago"},
		week + 49*time.Hour: {toneBad, true, 0, "expired 2 d 1 h ago"},
		-time.Hour:          {toneOK, true, 100, "7 d 1 h left"},
	} {
		if got := lifeOf(now.Add(-age), now.Add(week-age), now); got != want {
			t.Errorf("age %v: %+v, want %+v", age, got, want)
		}
	}
	if got := lifeOf(now, now, now); got.Tone != toneBad {
		t.Errorf("a certificate without life: %+v", got)
	}
}

func TestHeadlineSaysHowTheFleetIs(t *testing.T) {
	one := func(state, grade string, n int) registry.Count {
		return registry.Count{State: state, Grade: grade, N: n}
	}
	for want, counts := range map[string][]registry.Count{
		"No gateways yet.":                     nil,
		"The one gateway is trusted.":          {one("active", "trusted", 1)},
		"All 3 gateways are trusted.":          {one("active", "trusted", 3), one("revoked", "untrusted", 5)},
		"0 of 1 gateway trusted; 1 untrusted.": {one("quarantined", "untrusted", 1)},
		"1 of 4 gateways trusted; 1 degraded, 2 not judged yet. 2 waiting for an operator's approval.": {one("active", "trusted", 1), one("active", "degraded", 1), one("pending", "", 2)},
	} {
		if got := headline(counts); got != want {
			t.Errorf("%v: %q, want %q", counts, got, want)
		}
	}
}

func TestOneBadGatewayOfAMillionIsStillSeen(t *testing.T) {
	for _, s := range shares([]registry.Count{{State: "active", Grade: "trusted", N: 999_999}, {State: "active", Grade: "untrusted", N: 1}}) {
		if s.Width < 4 {
			t.Errorf("%+v can't be seen", s)
		}
	}
}

// A dashboard must show whatever a newer agent or a damaged row holds.
func TestUnreadableRecordsAreSaidAndDoNotBreakThePage(t *testing.T) {
	store := openRegistry(t)
	s := seeder{t, store, t.Context()}
	id := s.enroll(gateway{host: "odd", model: "m", state: registry.Active, grade: "purple", certLife: 1})
	s.ok(s.AddVerdict(s.ctx, registry.Verdict{Device: id, At: now, Grade: "purple", Gate: "ajar", Rules: []byte(`{"not":"a list"}`), Facts: []byte("1")}))
	_, _, err := s.Accept(s.ctx, registry.Message{Device: id, Stream: "x", Seq: 2, Kind: string(wire.KindHealth), Received: now, Body: []byte(`{"v":2,"mood":"fine"}`)})
	s.ok(err)
	s.ok(s.AddFirmware(s.ctx, "m", "odd", "h", []byte(`[]`), "mira", now))
	s.ok(s.AddCommand(s.ctx, registry.CommandRecord{Hash: "h", Device: id, Envelope: []byte("x"), Created: now.Add(-time.Hour), Expires: now}))
	wants(t, text(get(t, newSite(t, store), "/devices/"+id)), "Not judged The verifier gave no reason.", "health message can't be read", "unreadable set", "unreadable command expired before the gateway answered")
}

func FuzzPlainIsHarmlessAndBounded(f *testing.F) {
	f.Add("plain text")
	f.Add("\u202Eabc\x00\x1b[2J\xff`a` `b")
	f.Add(strings.Repeat("ü`", wire.MaxText))
	f.Fuzz(func(t *testing.T, in string) {
		out := plain(in)
		if !utf8.ValidString(out) || len(out) > 3*wire.MaxText+8 {
			t.Fatalf("%q became %q", in, out)
		}
		if i := strings.IndexFunc(out, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }); i >= 0 {
			t.Fatalf("%q keeps a control character: %q", in, out)
		}
		var told strings.Builder
		for _, r := range proseOf(in) {
			told.WriteString(r.Text)
		}
		if strings.ReplaceAll(told.String(), "`", "") != strings.ReplaceAll(out, "`", "") {
			t.Fatalf("prose of %q loses text: %q", in, told.String())
		}
	})
}
