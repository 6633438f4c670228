package web

import (
	"strconv"
	"strings"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/registry"
)

// tile is a count that leads to the devices it counted.
type tile struct {
	Mark    mark
	N       int
	Href    string
	Current bool
	Gap     bool // begins a group
}

// tiles counts what the filter they lead to will find.
func tiles(counts []registry.Count, current registry.Filter) []tile {
	sum := func(match func(registry.Count) bool) (n int) {
		for _, c := range counts {
			if match(c) {
				n += c.N
			}
		}
		return n
	}
	current.After, current.Limit = "", 0
	add := func(out []tile, m mark, f registry.Filter, gap bool) []tile {
		n := sum(func(c registry.Count) bool {
			return (f.State == "" || f.State == c.State) && (f.Grade == "" || f.Grade == c.Grade)
		})
		if n == 0 {
			m.Tone = toneIdle
		}
		return append(out, tile{Mark: m, N: n, Href: href(f), Current: f == current, Gap: gap})
	}
	out := add(nil, mark{Word: "All"}, registry.Filter{}, false)
	for i, g := range grades() {
		out = add(out, gradeMark(g), registry.Filter{Grade: g}, i == 0)
	}
	for i, s := range []string{registry.Pending, registry.Quarantined, registry.Revoked} {
		out = add(out, stateMark(s), registry.Filter{State: s}, i == 0)
	}
	return out
}

// tally is the fleet by verdict; devices that are out are no part of it.
type tally struct{ all, trusted, degraded, untrusted, unjudged, pending int }

func tallyOf(counts []registry.Count) (t tally) {
	for _, c := range counts {
		if registry.Out(c.State) {
			continue
		}
		t.all += c.N
		if c.State == registry.Pending {
			t.pending += c.N
		}
		switch attest.Grade(c.Grade) {
		case attest.Trusted:
			t.trusted += c.N
		case attest.Degraded:
			t.degraded += c.N
		case attest.Untrusted:
			t.untrusted += c.N
		default:
			t.unjudged += c.N
		}
	}
	return t
}

// headline is the fleet in a sentence.
func headline(counts []registry.Count) string {
	t := tallyOf(counts)
	var words []string
	for _, p := range []struct {
		n    int
		word string
	}{{t.untrusted, "untrusted"}, {t.degraded, "degraded"}, {t.unjudged, "not judged yet"}} {
		if p.n > 0 {
			words = append(words, strconv.Itoa(p.n)+" "+p.word)
		}
	}
	text := strconv.Itoa(t.trusted) + " of " + count(t.all, "gateway") + " trusted"
	switch {
	case t.all == 0:
		return "No gateways yet."
	case t.trusted == 1 && t.all == 1:
		text = "The one gateway is trusted"
	case t.trusted == t.all:
		text = "All " + count(t.all, "gateway") + " are trusted"
	case len(words) > 0:
		text += "; " + strings.Join(words, ", ")
	}
	if t.pending > 0 {
		text += ". " + strconv.Itoa(t.pending) + " waiting for an operator's approval"
	}
	return text + "."
}

// share is a part of the bar below the headline, in thousandths of its width.
type share struct {
	Tone     string
	X, Width int
}

func shares(counts []registry.Count) []share {
	t := tallyOf(counts)
	var out []share
	done := 0
	for _, p := range []struct {
		n    int
		tone string
	}{{t.untrusted, toneBad}, {t.degraded, toneWarn}, {t.trusted, toneOK}, {t.unjudged, toneIdle}} {
		if p.n == 0 {
			continue
		}
		x := done * 1000 / t.all
		done += p.n
		// One bad gateway of a million is still to be seen.
		out = append(out, share{p.tone, x, max(done*1000/t.all-x, 4)})
	}
	return out
}
