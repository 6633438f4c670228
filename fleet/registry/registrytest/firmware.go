package registrytest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
)

// rack is a fleet whose devices show firmware.
type rack struct {
	*testing.T
	store *registry.Store
}

// device enrols one; vouched says whether its EK certificate was verified.
func (r rack) device(n int, model string, vouched bool) string {
	r.Helper()
	id := deviceID(n)
	_, _, err := r.store.Enroll(r.Context(), registry.Device{ID: id, Model: model, EKName: []byte(id), AKPublic: []byte("ak"), EKVerified: vouched, Created: start()})
	must(r.T, err)
	return id
}

func (r rack) approve(id string) {
	r.Helper()
	must(r.T, r.store.SetState(r.Context(), id, registry.Active, "alice", "", start()))
}

// shows takes in a verdict on a device that boots this firmware; "" is none that
// could be verified.
func (r rack) shows(id, hash string, approved bool) {
	r.Helper()
	v := registry.Verdict{Device: id, At: start(), Grade: "degraded"}
	if hash != "" {
		v.Firmware = &registry.Measured{Hash: hash, Body: json.RawMessage(`{"of":"` + hash + `"}`), Approved: approved, Text: "differs: " + hash}
	}
	must(r.T, r.store.AddVerdict(r.Context(), v))
}

func (r rack) want(what, proposals string) {
	r.Helper()
	ps, err := r.store.Proposals(r.Context(), 0)
	must(r.T, err)
	var got []string
	for _, p := range ps {
		if string(p.Body) != `{"of":"`+p.Hash+`"}` || p.Text != "differs: "+p.Hash || p.FirstDevice == "" || !p.First.Equal(start()) {
			r.Errorf("%s: proposal %+v", what, p)
		}
		got = append(got, fmt.Sprintf("%s %s: %d of %d, %d others", p.Model, p.Hash, p.Devices, p.Of, p.Others))
	}
	if text := strings.Join(got, "; "); text != proposals {
		r.Errorf("%s: %q, want %q", what, text, proposals)
	}
}

func fallsCounted(t *testing.T, s *registry.Store) {
	r := rack{t, s}
	at := func(id, grade string, hours int) {
		t.Helper()
		must(t, s.AddVerdict(t.Context(), registry.Verdict{Device: id, At: start().Add(time.Duration(hours) * time.Hour), Grade: grade}))
	}
	want := func(what string, since, fell, of int) {
		t.Helper()
		n, all, err := s.Falls(t.Context(), "box", start().Add(time.Duration(since)*time.Hour), start().Add(8*time.Hour))
		must(t, err)
		if n != fell || all != of {
			t.Errorf("%s: %d of %d fell, want %d of %d", what, n, all, fell, of)
		}
	}
	var ids []string
	for n := range 4 {
		ids = append(ids, r.device(n, "box", true))
		r.approve(ids[n])
	}
	at(r.device(9, "box", true), "untrusted", 1) // pending: not in service
	at(ids[0], "trusted", 1)
	at(ids[1], "untrusted", 1)
	at(ids[2], "degraded", 2)
	want("one", 0, 1, 4)
	at(ids[2], "untrusted", 3)
	at(ids[1], "untrusted", 5) // it fell before
	want("since the first fell", 1, 1, 4)
	at(ids[1], "trusted", 6)
	at(ids[1], "untrusted", 7)
	want("it fell again", 5, 1, 4)
	must(t, s.SetState(t.Context(), ids[1], registry.Quarantined, "fleet", "", start()))
	want("quarantined", 0, 2, 4)
	must(t, s.SetState(t.Context(), ids[1], registry.Revoked, "alice", "", start()))
	want("revoked", 0, 1, 3)
	at(ids[0], "untrusted", 9)
	want("by a clock that was ahead", 0, 1, 3)
}

func firmwareCounted(t *testing.T, s *registry.Store) {
	r := rack{t, s}
	var ids []string
	for n := range 4 {
		ids = append(ids, r.device(n, "box", n != 3))
		r.shows(ids[n], "old", false)
	}
	other := r.device(9, "rail", true)
	r.approve(other)
	r.want("nobody was approved", "")
	for _, id := range ids {
		r.approve(id)
		r.shows(id, "old", true)
	}
	r.shows(other, "old", true)
	r.want("all of it is approved", "")
	for _, id := range ids[1:] {
		r.shows(id, "new", false)
		r.shows(id, "new", false)
	}
	r.want("an update", "box new: 2 of 3, 1 others")
	r.shows(ids[1], "", false)
	r.want("a verdict that could not verify firmware", "box new: 2 of 3, 1 others")
	r.shows(ids[0], "third", false)
	r.want("a second set", "box new: 2 of 3, 1 others; box third: 1 of 3, 0 others")
	must(t, s.SetState(t.Context(), ids[1], registry.Quarantined, "fleet", "", start()))
	r.want("quarantine is still service", "box new: 2 of 3, 1 others; box third: 1 of 3, 0 others")
	must(t, s.SetState(t.Context(), ids[1], registry.Revoked, "alice", "", start()))
	must(t, s.SetState(t.Context(), ids[1], registry.Revoked, "alice", "", start()))
	r.want("one was revoked", "box new: 1 of 2, 1 others; box third: 1 of 2, 0 others")
	r.shows(ids[0], "new", false)
	r.want("nobody shows the third any more", "box new: 2 of 2, 1 others")
	if _, err := s.Proposal(t.Context(), "rail", "new"); !isNotFound(err) {
		t.Errorf("proposal of another model: %v", err)
	}
	if p, err := s.Proposal(t.Context(), "box", "new"); err != nil || p.Devices != 2 {
		t.Errorf("proposal %+v, %v", p, err)
	}
	must(t, s.AddFirmware(t.Context(), "box", "v2", "new", json.RawMessage(`{"of":"new","name":"v2"}`), "alice", start().Add(time.Hour)))
	r.want("approved", "")
	if _, err := s.Proposal(t.Context(), "box", "new"); !isNotFound(err) {
		t.Errorf("approved proposal: %v", err)
	}
	events, err := s.Events(t.Context(), "", 0, 0)
	must(t, err)
	told := 0
	for _, e := range events {
		if e.Kind == "firmware.new" {
			told++
		}
	}
	if told != 2 {
		t.Errorf("told of %d first sightings, want 2", told)
	}
}
