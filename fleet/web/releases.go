package web

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/update/release"
)

// releasesPage answers /releases: the releases that are served, newest first,
// with one query for all counts.
func (s *site) releasesPage(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), pageTime)
	defer cancel()
	view := releasesView{Followed: s.Releases != nil}
	if view.Followed {
		all, fault := s.Releases(ctx)
		shown := newestFirst(all)
		if len(shown) > releaseRows {
			view.Older = count(len(shown)-releaseRows, "older release") + " left out."
			shown = shown[:releaseRows]
		}
		counts, err := s.Registry.Releases(ctx, releaseNames(shown))
		if err != nil {
			s.broken(w, r, fmt.Errorf("count devices by release: %w", err))
			return
		}
		view.fill(shown, counts, fault, s.Now())
	}
	s.show(w, r, http.StatusOK, "releases", frame{Title: "Releases", Page: "releases", Live: true, Body: view})
}

// releasesView is the body of the releases page.
type releasesView struct {
	Followed bool // the server follows a repository
	Fault    prose
	List     []releaseView
	Older    string
}

type releaseView struct {
	Key, Name, Channel string
	Facts              []pair
	Hardware           []string
	Counts             []releaseTile
	Notes              prose
}

// releaseTile is how many gateways did one thing with a release.
type releaseTile struct {
	Mark mark
	N    int
}

func (v *releasesView) fill(shown []*release.Release, counts map[string]registry.ReleaseCount, fault error, now time.Time) {
	if fault != nil {
		v.Fault = proseOf(fault.Error())
	}
	for i, r := range shown {
		one := viewRelease(r, counts[releaseName(r)], now)
		one.Key = "r" + strconv.Itoa(i)
		v.List = append(v.List, one)
	}
}

// releaseName is what verdicts call it; channels share a version's contents.
func releaseName(r *release.Release) string { return r.Product + " " + r.Version }

func releaseNames(list []*release.Release) []string {
	var names []string
	for _, r := range list {
		names = append(names, releaseName(r))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// newestFirst sorts by product, then by version downwards, then by channel.
func newestFirst(list []*release.Release) []*release.Release {
	versions := make(map[string]release.Version, len(list))
	for _, r := range list {
		versions[r.Version], _ = release.ParseVersion(r.Version) // Parse refused what is none
	}
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b *release.Release) int {
		return cmp.Or(cmp.Compare(a.Product, b.Product), versions[b.Version].Compare(versions[a.Version]), cmp.Compare(a.Channel, b.Channel))
	})
	return list
}

func viewRelease(r *release.Release, n registry.ReleaseCount, now time.Time) releaseView {
	v := releaseView{Name: plain(releaseName(r)), Channel: plain(r.Channel), Notes: proseOf(r.Notes)}
	var bytes int64
	var slots []string
	for _, image := range r.Images {
		bytes += image.Size
		name := plain(image.Slot)
		if image.For != "" {
			name += " for slot " + plain(image.For)
		}
		slots = append(slots, name+" "+size(image.Size))
	}
	for i, model := range r.Hardware {
		if i == modelRows {
			v.Hardware = append(v.Hardware, "and "+strconv.Itoa(len(r.Hardware)-i)+" more")
			break
		}
		v.Hardware = append(v.Hardware, plain(model))
	}
	v.Facts = []pair{{Key: "Security epoch", Value: strconv.FormatUint(r.Epoch, 10)}, deadline(r.Deadline, now),
		{Key: "PCR policies", Value: orNone(len(r.PCRPolicies))}, {Key: "Images", Value: size(bytes), Note: strings.Join(slots, ", ")}}
	if r.MinSource != "" {
		v.Facts = append(v.Facts, pair{Key: "Installs over", Value: plain(r.MinSource), Note: "and later"})
	}
	for _, t := range []releaseTile{
		{mark{toneOK, "ok", "running"}, n.Running}, {mark{toneIdle, "wait", "updating"}, n.UnderWay}, {mark{toneBad, "bad", "failed"}, n.Failed},
		{mark{toneWarn, "stop", "refused"}, n.Refused}, {mark{toneWarn, "back", "rolled back"}, n.RolledBack},
	} {
		if t.N == 0 {
			t.Mark.Tone = toneIdle
		}
		v.Counts = append(v.Counts, t)
	}
	return v
}

func deadline(by, now time.Time) pair {
	p := pair{Key: "Deadline", Value: "none"}
	if !by.IsZero() {
		p.Value, p.Note = at(by, now).Full, at(by, now).Ago
	}
	return p
}

func orNone(n int) string {
	if n == 0 {
		return "none"
	}
	return strconv.Itoa(n)
}
