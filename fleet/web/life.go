package web

import (
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
)

// life is how much of a certificate's time is left.
type life struct {
	Tone    string // "" while there is nothing to say
	Bar     bool   // worth drawing
	Percent int    // left, 0 to 100
	Words   string
}

func lifeOf(from, until, now time.Time) life {
	whole, left := until.Sub(from), until.Sub(now)
	switch {
	case left <= 0:
		return life{Tone: toneBad, Bar: true, Words: "expired " + span(-left) + " ago"}
	case whole <= 0 || left > whole:
		return life{Bar: true, Tone: toneOK, Percent: 100, Words: span(left) + " left"}
	}
	l := life{Bar: true, Tone: toneOK, Percent: int(left * 100 / whole), Words: span(left) + " left"}
	// Renewal begins with a third left; with half of that gone it is late.
	if left < whole/6 {
		l.Tone, l.Words = toneWarn, l.Words+", renewal is late"
	}
	return l
}

// certView is one certificate of a device page.
type certView struct {
	Serial, Short, Profile string
	Mark                   mark
	Life                   life
	Issued, Until          moment
}

func viewCertificate(c registry.Certificate, now time.Time) certView {
	v := certView{
		Serial: plain(c.Serial), Short: plain(short(c.Serial)), Profile: plain(c.Profile), Life: lifeOf(c.NotBefore, c.NotAfter, now),
		Issued: at(c.IssuedAt, now), Until: at(c.NotAfter, now), Mark: mark{toneOK, "ok", "valid"},
	}
	switch {
	case !c.RevokedAt.IsZero():
		v.Mark = mark{toneIdle, "stop", "revoked"}
		v.Until = moment{}
		v.Life = life{Words: "revoked " + at(c.RevokedAt, now).Ago}
		if c.Reason != "" {
			v.Life.Words += ": " + plain(c.Reason)
		}
	case v.Life.Percent == 0 && !c.NotAfter.After(now):
		v.Mark = mark{toneIdle, "idle", "expired"}
		v.Life.Bar = false
	}
	return v
}

// short is enough of a long hex value to tell two apart.
func short(hex string) string {
	if len(hex) <= 20 {
		return hex
	}
	return hex[:8] + " … " + hex[len(hex)-8:]
}
