package web

import (
	"strconv"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
)

// moment is a time as a page shows it.
type moment struct {
	Known          bool
	ISO, Full, Ago string
	Clock          string // short: of today without the date
}

func at(t, now time.Time) moment {
	if t.IsZero() {
		return moment{}
	}
	t, now = t.UTC(), now.UTC()
	m := moment{Known: true, ISO: t.Format(time.RFC3339), Full: t.Format("2006-01-02 15:04:05 UTC"), Clock: t.Format("15:04:05")}
	if y, d := t.Year(), t.YearDay(); y != now.Year() {
		m.Clock = t.Format("2006-01-02")
	} else if d != now.YearDay() {
		m.Clock = t.Format("2 Jan 15:04")
	}
	switch d := now.Sub(t); {
	case d < -time.Second:
		m.Ago = "in " + span(-d)
	case d < time.Second:
		m.Ago = "just now"
	default:
		m.Ago = span(d) + " ago"
	}
	return m
}

// silent tells whether a device that should report has not for too long.
func silent(d registry.Device, now time.Time) bool {
	reporting := d.State == registry.Active || d.State == registry.Quarantined
	return reporting && !d.LastSeen.IsZero() && now.Sub(d.LastSeen) >= silence
}

// span is a length of time in its one or two largest units.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	unit := func(n time.Duration, name string) string { return strconv.FormatInt(int64(n), 10) + " " + name }
	two := func(big, small string, n, rest time.Duration) string {
		if rest == 0 || n >= 10 {
			return unit(n, big)
		}
		return unit(n, big) + " " + unit(rest, small)
	}
	switch {
	case d < time.Minute:
		return unit(d/time.Second, "s")
	case d < time.Hour:
		return two("min", "s", d/time.Minute, d%time.Minute/time.Second)
	case d < day:
		return two("h", "min", d/time.Hour, d%time.Hour/time.Minute)
	}
	return two("d", "h", d/day, d%day/time.Hour)
}
