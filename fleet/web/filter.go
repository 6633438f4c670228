package web

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/registry"
)

func states() []string {
	return []string{registry.Pending, registry.Active, registry.Quarantined, registry.Revoked, registry.Decommissioned}
}

// grades are from worst to best, as an operator wants them.
func grades() []string {
	return []string{string(attest.Untrusted), string(attest.Degraded), string(attest.Trusted)}
}

// readFilter takes the filter from a query; its errors are for people.
func readFilter(q url.Values) (registry.Filter, error) {
	f := registry.Filter{State: q.Get("state"), Grade: q.Get("grade"), Model: q.Get("model"), Search: strings.TrimSpace(q.Get("q")), After: q.Get("after")}
	for _, v := range []string{f.Model, f.Search} {
		if len(v) > maxQuery {
			return f, fmt.Errorf("a search has at most %d characters", maxQuery)
		}
	}
	switch {
	case f.State != "" && !slices.Contains(states(), f.State):
		return f, fmt.Errorf("state is one of %s", strings.Join(states(), ", "))
	case f.Grade != "" && !slices.Contains(grades(), f.Grade):
		return f, fmt.Errorf("grade is one of %s", strings.Join(grades(), ", "))
	case f.After != "" && !isDevice(f.After):
		return f, fmt.Errorf("a page begins after a device id")
	}
	return f, nil
}

// href is the address of the fleet page with this filter.
func href(f registry.Filter) string {
	q := url.Values{}
	for _, p := range [][2]string{{"q", f.Search}, {"grade", f.Grade}, {"state", f.State}, {"model", f.Model}, {"after", f.After}} {
		if p[1] != "" {
			q.Set(p[0], p[1])
		}
	}
	if len(q) == 0 {
		return "/"
	}
	return "/?" + q.Encode()
}

// shown is a filter as the page repeats it: a link may have brought it.
func shown(f registry.Filter) registry.Filter {
	f.Search, f.Model = plain(f.Search), plain(f.Model)
	return f
}

type choice struct {
	Value, Word string
	Selected    bool
}

func choices(values []string, selected string, word func(string) mark) []choice {
	var out []choice
	for _, v := range values {
		out = append(out, choice{v, word(v).Word, v == selected})
	}
	return out
}
