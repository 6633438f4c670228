package web

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/registry"
)

// fleetPage answers / with one page of devices, four queries in all.
func (s *site) fleetPage(w http.ResponseWriter, r *http.Request) {
	filter, err := readFilter(r.URL.Query())
	if err != nil {
		s.sorry(w, r, http.StatusBadRequest, "This filter can't be read", err.Error())
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), pageTime)
	defer cancel()
	counts, err := s.Registry.Counts(ctx)
	if err != nil {
		s.broken(w, r, fmt.Errorf("count devices: %w", err))
		return
	}
	filter.Limit = pageSize + 1 // the one more says that there is a next page
	rows, err := s.Registry.Devices(ctx, filter)
	if err != nil {
		s.broken(w, r, fmt.Errorf("list devices: %w", err))
		return
	}
	events, err := s.Registry.Events(ctx, "", 0, fleetEvents)
	if err != nil {
		s.broken(w, r, fmt.Errorf("list events: %w", err))
		return
	}
	proposals, err := s.Registry.Proposals(ctx, proposalRows)
	if err != nil {
		s.broken(w, r, fmt.Errorf("list firmware: %w", err))
		return
	}
	view := viewFleet(filter, counts, rows, events, s.Now())
	view.Firmware = viewProposals(proposals, s.Now())
	s.show(w, r, http.StatusOK, "fleet", frame{Title: view.Title, Page: "fleet", Live: true, Body: view})
}

// fleetView is the body of the fleet page.
type fleetView struct {
	Title, Headline string
	Shares          []share
	Tiles           []tile
	Filter          registry.Filter
	Filtered        bool
	Grades, States  []choice
	Rows            []row
	Empty           string
	First, Next     string // addresses of other pages
	PageSize        int
	Events          []eventView
	Firmware        []proposalView
}

// row is one device of the table.
type row struct {
	ID, Name, Software, Model string
	Running                   string // release
	Update                    mark   // zero while there is nothing to say
	State, Grade              mark
	Attested, Seen            moment
	Silent                    bool
	SoftwareKeys              bool
	Life                      life
}

type eventView struct {
	ID     int64
	Device string // id, where the list is of more than one
	Name   string
	Mark   mark
	Text   prose
	Doubt  string // what keeps it from being the gateway's proven word, if it claims to be its word
	At     moment
}

func viewFleet(f registry.Filter, counts []registry.Count, rows []registry.DeviceRow, events []registry.Event, now time.Time) fleetView {
	page := f
	page.After = ""
	v := fleetView{
		Title: "Fleet", Filter: shown(f), Filtered: href(page) != "/", PageSize: pageSize, Headline: headline(counts),
		Shares: shares(counts), Tiles: tiles(counts, f), Grades: choices(grades(), f.Grade, gradeMark),
		States: choices(states(), f.State, stateMark), Events: viewEvents(events, now, names(rows)), Empty: emptyWords(f),
	}
	if f.After != "" {
		v.First = href(page)
	}
	if len(rows) > pageSize {
		rows = rows[:pageSize]
		page.After = rows[pageSize-1].ID
		v.Next = href(page)
	}
	if v.First == "" && v.Next == "" { // all of them are here: worst first
		rows = slices.Clone(rows)
		slices.SortStableFunc(rows, func(a, b registry.DeviceRow) int { return urgency(a.Device) - urgency(b.Device) })
	}
	for _, d := range rows {
		v.Rows = append(v.Rows, viewRow(d, now))
	}
	return v
}

func emptyWords(f registry.Filter) string {
	f.Limit = 0
	if f == (registry.Filter{}) {
		return "No gateway has enrolled yet. Each appears here as soon as its agent has proven its TPM to the fleet."
	}
	return "No gateway matches this filter."
}

// urgency orders a list by what an operator has to look at first.
func urgency(d registry.Device) int {
	switch {
	case registry.Out(d.State):
		return 5
	case d.Grade == string(attest.Untrusted) || d.State == registry.Quarantined:
		return 0
	case d.State == registry.Pending:
		return 1
	case d.Grade == string(attest.Degraded):
		return 2
	case d.Grade == "":
		return 3
	}
	return 4
}

func viewRow(d registry.DeviceRow, now time.Time) row {
	r := row{
		ID: d.ID, Name: name(d.Device), Software: plain(d.Software), Model: plain(d.Model), State: stateMark(d.State),
		Grade: gradeMark(d.Grade), Attested: at(d.GradeAt, now), Seen: at(d.LastSeen, now), Silent: silent(d.Device, now),
		Running: orDash(plain(d.Running)), Update: updateNote(d.Device), SoftwareKeys: d.SoftwareKeys,
	}
	switch {
	case registry.Out(d.State) && d.CertSerial != "":
		r.Life = life{Tone: toneIdle, Words: "revoked"}
	case d.CertSerial == "":
		r.Life = life{Tone: toneIdle, Words: "none yet"}
	default:
		r.Life = lifeOf(d.CertNotBefore, d.CertNotAfter, now)
		if d.CertProfile != "" && d.CertProfile != "full" {
			r.Life.Words = plain(d.CertProfile) + ", " + r.Life.Words
		}
	}
	return r
}

// name is what a device is called; its host name is its own claim.
func name(d registry.Device) string {
	if d.Hostname == "" {
		return d.ID
	}
	return plain(d.Hostname)
}

// names is what the devices of a page are called, by id.
func names(rows []registry.DeviceRow) map[string]string {
	out := make(map[string]string, len(rows))
	for _, d := range rows {
		out[d.ID] = name(d.Device)
	}
	return out
}

func viewEvents(events []registry.Event, now time.Time, names map[string]string) []eventView {
	var out []eventView
	for _, e := range events {
		v := eventView{ID: e.ID, Mark: severityMark(e.Severity), Text: proseOf(e.Text), Doubt: doubtWords(e.Proof), At: at(e.At, now)}
		if names != nil && isDevice(e.Device) {
			v.Device, v.Name = e.Device, cmp.Or(names[e.Device], e.Device)
		}
		out = append(out, v)
	}
	return out
}
