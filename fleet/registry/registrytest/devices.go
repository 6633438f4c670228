package registrytest

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
)

func deviceRoundTrip(t *testing.T, s *registry.Store) {
	ctx := t.Context()
	want := registry.Device{
		ID: deviceID(1), Model: "box", Hostname: "north", Software: "1.0.0", State: registry.Pending, EKName: []byte{1, 0, 2}, EKPublic: []byte("p"),
		EKCertificate: []byte("c"), AKPublic: []byte("a"), EKVerified: true, Machine: "m", Created: start(),
	}
	got, created, err := s.Enroll(ctx, want)
	must(t, err)
	if !created || !reflect.DeepEqual(got, want) {
		t.Errorf("enrolled %+v (created %v), want %+v", got, created, want)
	}
	if id, err := s.OfMachine(ctx, "m"); err != nil || id != want.ID {
		t.Errorf("machine m is of %q: %v", id, err)
	}
	if id, err := s.OfMachine(ctx, "n"); err != nil || id != "" {
		t.Errorf("an unknown machine is of %q: %v", id, err)
	}
	twin := want
	twin.ID, twin.EKName = deviceID(2), []byte("twin")
	if _, _, err := s.Enroll(ctx, twin); err == nil {
		t.Error("one machine vouches for two devices")
	}
	other := want
	other.Hostname, other.AKPublic = "south", []byte("b")
	got, created, err = s.Enroll(ctx, other)
	must(t, err)
	if created || !reflect.DeepEqual(got, want) {
		t.Errorf("a known device came back as %+v (created %v), want it unchanged", got, created)
	}
	twin.Machine = "n"
	_, _, err = s.Enroll(ctx, twin)
	must(t, err)
	must(t, s.UpdateAK(ctx, want.ID, []byte("b"), "o"))
	must(t, s.UpdateAK(ctx, want.ID, []byte("b"), "n")) // which is twin's
	must(t, s.SetGrade(ctx, want.ID, "degraded", start().Add(time.Minute)))
	must(t, s.Touch(ctx, want.ID, "1.1.0", start().Add(time.Hour)))
	must(t, s.Touch(ctx, want.ID, "0.9.0", start())) // late: heard of before
	want.AKPublic, want.Machine, want.Grade, want.GradeAt = []byte("b"), "", "degraded", start().Add(time.Minute)
	want.Software, want.LastSeen = "1.1.0", start().Add(time.Hour)
	got, err = s.Device(ctx, want.ID)
	must(t, err)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("device %+v, want %+v", got, want)
	}
	for name, err := range map[string]error{
		"Device": second(s.Device(ctx, "gw-none")), "UpdateAK": s.UpdateAK(ctx, "gw-none", nil, ""), "Touch": s.Touch(ctx, "gw-none", "", start()),
		"SetState": s.SetState(ctx, "gw-none", registry.Active, "a", "b", start()),
	} {
		if !errors.Is(err, registry.ErrNotFound) {
			t.Errorf("%s of an unknown device: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func deviceBoundToEK(t *testing.T, s *registry.Store) {
	id := active(t, s, 1)
	before, err := s.Device(t.Context(), id)
	must(t, err)
	_, created, err := s.Enroll(t.Context(), registry.Device{ID: id, EKName: []byte("another"), AKPublic: []byte("attacker"), Created: start()})
	if created || !errors.Is(err, registry.ErrConflict) {
		t.Errorf("another EK: created %v, %v", created, err)
	}
	if after, _ := s.Device(t.Context(), id); !reflect.DeepEqual(before, after) {
		t.Errorf("the device changed to %+v", after)
	}
	if _, _, err := s.Enroll(t.Context(), registry.Device{ID: deviceID(2)}); err == nil {
		t.Error("a device without EK name was enrolled")
	}
}

func stateAudited(t *testing.T, s *registry.Store) {
	ctx := t.Context()
	id := enroll(t, s, 1)
	must(t, s.SetState(ctx, id, registry.Active, "alice", "new site", start()))
	must(t, s.SetState(ctx, id, registry.Quarantined, "fleet", "untrusted", start().Add(time.Hour)))
	must(t, s.SetState(ctx, id, registry.Active, "fleet", "trusted again", start().Add(2*time.Hour)))
	d, err := s.Device(ctx, id)
	must(t, err)
	if d.State != registry.Active || d.ApprovedBy != "alice" || !d.ApprovedAt.Equal(start()) {
		t.Errorf("device %+v, want the approval of the first time", d)
	}
	if err := s.SetState(ctx, id, "lost", "alice", "", start()); err == nil {
		t.Error("an unknown state was set")
	}
	entries, err := s.Audit(ctx, 0, 0)
	must(t, err)
	var got []string
	for _, a := range entries {
		got = append(got, a.By+" "+a.Action+" "+a.Text)
	}
	if want := []string{"fleet state.active trusted again", "fleet state.quarantined untrusted", "alice state.active new site"}; !slices.Equal(got, want) {
		t.Errorf("audit %q, want %q", got, want)
	}
}

func stateOfTheServer(t *testing.T, s *registry.Store) {
	ctx := t.Context()
	states := []string{registry.Pending, registry.Active, registry.Quarantined, registry.Revoked, registry.Decommissioned}
	for n, before := range states {
		for m, after := range states {
			id := enroll(t, s, 10*n+m)
			must(t, s.SetState(ctx, id, before, "alice", "", start()))
			in := before == registry.Active || before == registry.Quarantined
			err := s.SetState(ctx, id, after, registry.Fleet, "", start())
			if allowed := in || before == registry.Pending && after == registry.Pending; allowed != (err == nil) || !allowed && !errors.Is(err, registry.ErrState) {
				t.Errorf("%s to %s: %v", before, after, err)
			}
		}
	}
}

func pagesComplete(t *testing.T, s *registry.Store) {
	ctx := t.Context()
	var all, revoked []string
	for n := range 25 {
		id := enroll(t, s, n)
		all = append(all, id)
		if n%3 == 0 {
			must(t, s.SetState(ctx, id, registry.Revoked, "alice", "", start()))
			revoked = append(revoked, id)
		}
	}
	for _, c := range []struct {
		filter registry.Filter
		want   []string
	}{
		{registry.Filter{}, all},
		{registry.Filter{State: registry.Revoked}, revoked},
		{registry.Filter{State: registry.Revoked, Model: "box"}, revoked},
		{registry.Filter{State: registry.Active}, nil},
		{registry.Filter{Grade: "trusted"}, nil},
		{registry.Filter{Search: "site-1"}, append([]string{all[1]}, all[10:20]...)},
		{registry.Filter{Search: "GW-000000000000000"}, all[:10]},
		{registry.Filter{Search: "0000000000000007"}, all[7:8]},
		{registry.Filter{Keys: registry.KeysSoftware}, all[withoutTPM : withoutTPM+1]},
		{registry.Filter{Keys: registry.KeysTPM, Search: "0000000000000007"}, nil},
		{registry.Filter{Search: "%"}, nil},
	} {
		c.filter.Limit = 4
		var got []string
		for {
			rows, err := s.Devices(ctx, c.filter)
			must(t, err)
			if len(rows) == 0 {
				break
			}
			for _, r := range rows {
				got = append(got, r.ID)
			}
			c.filter.After = rows[len(rows)-1].ID
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q, want %q", c.filter, got, c.want)
		}
	}
	counts, err := s.Counts(ctx)
	must(t, err)
	if want := []registry.Count{{State: registry.Pending, N: 16}, {State: registry.Revoked, N: 9}}; !slices.Equal(counts, want) {
		t.Errorf("counts %+v, want %+v", counts, want)
	}
}

func hostileClaims(t *testing.T, s *registry.Store) {
	for n, claim := range []string{"\x00", "\xff\xfe", "'; DROP TABLE devices; --", strings.Repeat("ä", 10_000), "\U0010FFFF"} {
		id := deviceID(n)
		_, _, err := s.Enroll(t.Context(), registry.Device{ID: id, Model: claim, Hostname: claim, Software: claim, EKName: []byte(id), Created: start()})
		must(t, err)
		must(t, s.Touch(t.Context(), id, claim, start()))
		must(t, s.AddEvent(t.Context(), registry.Event{Device: id, At: start(), Kind: claim, Severity: registry.Info, Text: claim}))
		d, err := s.Device(t.Context(), id)
		must(t, err)
		if len(d.Hostname) > 255 || strings.ContainsRune(d.Hostname, 0) || strings.ToValidUTF8(d.Hostname, "") != d.Hostname {
			t.Errorf("stored host name %q", d.Hostname)
		}
		_, err = s.Devices(t.Context(), registry.Filter{Search: claim})
		must(t, err)
	}
}
