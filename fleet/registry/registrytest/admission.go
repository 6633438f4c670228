package registrytest

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
)

func tokenOf(id string) registry.Token {
	return registry.Token{ID: id, SecretHash: [32]byte{7}, Note: "site 4", By: "alice", Created: start(), Expires: start().Add(time.Hour), AcceptFirmware: true}
}

// pendings enrols n devices and returns their ids, one to each receive.
func pendings(t *testing.T, s *registry.Store, n int) chan string {
	ids := make(chan string, n)
	for i := range n {
		ids <- enroll(t, s, i)
	}
	return ids
}

func countState(t *testing.T, s *registry.Store, state string) (n int) {
	t.Helper()
	counts, err := s.Counts(t.Context())
	must(t, err)
	for _, c := range counts {
		if c.State == state {
			n += c.N
		}
	}
	return n
}

func tokenOnce(t *testing.T, s *registry.Store) {
	ctx := t.Context()
	want := tokenOf("t1")
	must(t, s.AddToken(ctx, want))
	if got, err := s.Token(ctx, "t1"); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("token %+v, %v; want %+v", got, err, want)
	}
	ids := pendings(t, s, 100)
	won := race(t, 100, func(ctx context.Context) error {
		return s.Admit(ctx, registry.Admission{Device: <-ids, By: "alice", At: start(), Token: "t1"})
	}, isNotFound)
	if won != 1 || countState(t, s, registry.Active) != 1 {
		t.Errorf("%d uses succeeded, %d devices are active", won, countState(t, s, registry.Active))
	}
	used, err := s.Token(ctx, "t1")
	must(t, err)
	if d, err := s.Device(ctx, used.Device); err != nil || d.State != registry.Active || d.ApprovedBy != "alice" || !used.UsedAt.Equal(start()) {
		t.Errorf("used %+v, device %+v, %v", used, d, err)
	}
	if err := s.RevokeToken(ctx, "t1", "bob", "", start()); !isNotFound(err) {
		t.Errorf("a used token was ended: %v", err)
	}
	must(t, s.AddToken(ctx, tokenOf("ended")))
	must(t, s.RevokeToken(ctx, "ended", "bob", "lost", start()))
	must(t, s.AddToken(ctx, tokenOf("late")))
	waiting := enroll(t, s, 200)
	for name, a := range map[string]registry.Admission{
		"an unknown": {Token: "none", At: start()}, "an ended": {Token: "ended", At: start()}, "an expired": {Token: "late", At: start().Add(time.Hour)},
	} {
		a.Device = waiting
		if err := s.Admit(ctx, a); !isNotFound(err) || countState(t, s, registry.Active) != 1 {
			t.Errorf("%s token: %v", name, err)
		}
	}
	if all, err := s.Tokens(ctx); err != nil || len(all) != 3 {
		t.Errorf("%d tokens listed, %v", len(all), err)
	}
}

func allowedOnce(t *testing.T, s *registry.Store) {
	ctx := t.Context()
	entry := registry.Allowed{Kind: registry.AllowEK, Value: "ab", Note: "lot 9", By: "alice", Created: start()}
	must(t, s.AddAllowed(ctx, entry))
	must(t, s.AddAllowed(ctx, registry.Allowed{Kind: registry.AllowSerial, Value: "ab", By: "alice", Created: start()}))
	if got, err := s.Allowed(ctx, entry.Kind, entry.Value); err != nil || !reflect.DeepEqual(got, entry) {
		t.Errorf("entry %+v, %v", got, err)
	}
	ids := pendings(t, s, 100)
	won := race(t, 100, func(ctx context.Context) error {
		return s.Admit(ctx, registry.Admission{Device: <-ids, By: "alice", At: start(), Allowed: &entry})
	}, isNotFound)
	if won != 1 || countState(t, s, registry.Active) != 1 {
		t.Errorf("%d uses succeeded", won)
	}
	must(t, s.AddAllowed(ctx, entry)) // put there again: admits once more
	must(t, s.Admit(ctx, registry.Admission{Device: enroll(t, s, 200), By: "alice", At: start(), Allowed: &entry}))
	var all []registry.Allowed
	for after := (registry.Allowed{}); ; after = all[len(all)-1] {
		page, err := s.AllowList(ctx, after)
		must(t, err)
		if len(page) == 0 {
			break
		}
		all = append(all, page...)
	}
	if len(all) != 2 || all[0].Device != deviceID(200) || all[1].Kind != registry.AllowSerial {
		t.Errorf("list %+v", all)
	}
	must(t, s.RemoveAllowed(ctx, entry.Kind, entry.Value, "bob", start()))
	if err := s.RemoveAllowed(ctx, entry.Kind, entry.Value, "bob", start()); !isNotFound(err) {
		t.Errorf("removed twice: %v", err)
	}
}

func admissionAtomic(t *testing.T, s *registry.Store) {
	ctx := t.Context()
	must(t, s.AddToken(ctx, tokenOf("t")))
	a := registry.Admission{
		Device: active(t, s, 1), By: "alice", At: start(), Token: "t",
		Firmware: &registry.FirmwareRecord{Model: "box", Name: "n", Hash: "h", Set: json.RawMessage(`{}`)},
	}
	if err := s.Admit(ctx, a); !errors.Is(err, registry.ErrState) {
		t.Errorf("an active device: %v", err)
	}
	a.Device = "gw-none"
	if err := s.Admit(ctx, a); !isNotFound(err) {
		t.Errorf("an unknown device: %v", err)
	}
	if used, err := s.Token(ctx, "t"); err != nil || used.Device != "" {
		t.Errorf("a failed admission used the token up: %+v, %v", used, err)
	}
	a.Device, a.Token = enroll(t, s, 2), "none"
	if err := s.Admit(ctx, a); !isNotFound(err) {
		t.Errorf("an unknown token: %v", err)
	}
	if sets, err := s.Firmware(ctx, "box"); err != nil || len(sets) != 0 {
		t.Errorf("a failed admission left %d firmware sets, %v", len(sets), err)
	}
	a.Token = "t"
	must(t, s.Admit(ctx, a))
	if sets, err := s.Firmware(ctx, "box"); err != nil || len(sets) != 1 {
		t.Errorf("%d firmware sets, %v", len(sets), err)
	}
	entries, err := s.Audit(ctx, 0, 1)
	if err != nil || entries[0].Action != "state.active" || entries[0].By != "alice" {
		t.Errorf("audit %+v, %v", entries, err)
	}
}

func detached(t *testing.T, s *registry.Store) {
	ctx := t.Context()
	for n, state := range []string{registry.Revoked, registry.Decommissioned, registry.Pending} {
		id := active(t, s, n)
		must(t, s.AddCertificate(ctx, certificateOf(id, "0"+id[len(id)-1:]), ""))
		must(t, s.PutTicket(ctx, ticketOf(id, "ticket"+id)))
		must(t, s.PutNonce(ctx, id, []byte(id), start().Add(time.Hour)))
		must(t, s.AddCommand(ctx, registry.CommandRecord{Hash: "h", Device: id, Envelope: []byte("{}"), Verb: "ping", Created: start()}))
		for range 2 { // safe to repeat
			must(t, s.Detach(ctx, id, state, "bob", "sold", start()))
		}
		d, err := s.Device(ctx, id)
		must(t, err)
		if d.State != state || string(d.EKName) != id || (state == registry.Pending) != (d.ApprovedAt.IsZero() && len(d.AKPublic) == 0) {
			t.Errorf("%s: device %+v", state, d)
		}
		if c, err := s.Certificates(ctx, id); err != nil || c[0].Reason != "sold" {
			t.Errorf("%s: certificates %+v, %v", state, c, err)
		}
		if _, err := s.Ticket(ctx, "ticket"+id, start()); !isNotFound(err) {
			t.Errorf("%s: its ticket is good: %v", state, err)
		}
		if _, err := s.ConsumeNonce(ctx, id, []byte(id), start()); !isNotFound(err) {
			t.Errorf("%s: its nonce is good: %v", state, err)
		}
		if waiting, err := s.PendingCommands(ctx, id, start()); err != nil || len(waiting) != 0 {
			t.Errorf("%s: %d commands wait, %v", state, len(waiting), err)
		}
		if registry.Out(state) {
			if err := s.AddCertificate(ctx, certificateOf(id, "f"+id), ""); !errors.Is(err, registry.ErrState) {
				t.Errorf("%s: a certificate was journalled: %v", state, err)
			}
		}
	}
	for _, state := range []string{registry.Pending, registry.Decommissioned} {
		if err := s.Detach(ctx, deviceID(0), state, "bob", "", start()); !errors.Is(err, registry.ErrState) {
			t.Errorf("a revoked device became %s: %v", state, err)
		}
	}
	if err := s.Detach(ctx, deviceID(1), registry.Active, "bob", "", start()); err == nil {
		t.Error("a device that left became active")
	}
	must(t, s.Detach(ctx, deviceID(1), registry.Pending, "bob", "bought back", start()))
}

func admittedAgain(t *testing.T, s *registry.Store) {
	ctx, id, later := t.Context(), active(t, s, 1), start().Add(time.Hour)
	must(t, s.AddCertificate(ctx, certificateOf(id, "1"), ""))
	again := registry.Admission{Device: id, By: "bob", Reason: "by mistake", At: later, Revoked: true}
	if err := s.Admit(ctx, again); !errors.Is(err, registry.ErrState) {
		t.Errorf("a device that is active: %v", err)
	}
	must(t, s.Detach(ctx, id, registry.Revoked, "bob", "stolen", start()))
	for _, a := range []registry.Admission{{Device: id, By: "bob", At: later}, {Device: enroll(t, s, 2), By: "bob", At: later, Revoked: true}} {
		if err := s.Admit(ctx, a); !errors.Is(err, registry.ErrState) {
			t.Errorf("%+v: %v", a, err)
		}
	}
	before, err := s.Device(ctx, id)
	must(t, err)
	must(t, s.Admit(ctx, again))
	d, err := s.Device(ctx, id)
	must(t, err)
	want := before
	want.State, want.ApprovedBy, want.ApprovedAt = registry.Active, "bob", later
	if !reflect.DeepEqual(d, want) {
		t.Errorf("device %+v, want %+v", d, want)
	}
	if revoked, err := s.IsRevoked(ctx, "1"); err != nil || !revoked {
		t.Errorf("its certificate is good again: %v", err)
	}
	must(t, s.AddCertificate(ctx, certificateOf(id, "2"), ""))
}
