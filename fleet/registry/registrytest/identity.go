package registrytest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
)

func isNotFound(err error) bool { return errors.Is(err, registry.ErrNotFound) }

func ticketOf(device, id string) registry.Ticket {
	return registry.Ticket{ID: id, Device: device, SecretHash: [32]byte{1}, CSRHash: [32]byte{2}, Key: "ab", AKPublic: []byte("ak"), Machine: "m", Expires: start().Add(time.Hour)}
}

func certificateOf(device, serial string) registry.Certificate {
	return registry.Certificate{
		Serial: serial, Device: device, Identity: device, Profile: "full", SPKI: "ab", NotBefore: start(), NotAfter: start().Add(24 * time.Hour),
		IssuedAt: start(), DER: []byte(serial),
	}
}

func ticketOnce(t *testing.T, s *registry.Store) {
	id := active(t, s, 1)
	want := ticketOf(id, "t1")
	must(t, s.PutTicket(t.Context(), want))
	got, err := s.Ticket(t.Context(), "t1", start())
	must(t, err)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("ticket %+v, want %+v", got, want)
	}
	if won := race(t, 100, func(ctx context.Context) error { return s.ConsumeTicket(ctx, "t1", start()) }, isNotFound); won != 1 {
		t.Errorf("%d uses succeeded", won)
	}
	must(t, s.PutTicket(t.Context(), ticketOf(id, "t2")))
	serial := make(chan string, 100)
	for n := range 100 {
		serial <- fmt.Sprintf("%02x", n)
	}
	won := race(t, 100, func(ctx context.Context) error { return s.AddCertificate(ctx, certificateOf(id, <-serial), "t2") }, isNotFound)
	cs, err := s.Certificates(t.Context(), id)
	must(t, err)
	if won != 1 || len(cs) != 1 {
		t.Errorf("%d issuances succeeded, %d certificates in the journal", won, len(cs))
	}
	if _, err := s.Ticket(t.Context(), "t2", start()); !isNotFound(err) {
		t.Errorf("a consumed ticket: %v", err)
	}
}

func ticketExpires(t *testing.T, s *registry.Store) {
	id := active(t, s, 1)
	must(t, s.PutTicket(t.Context(), ticketOf(id, "t")))
	late := start().Add(time.Hour)
	if _, err := s.Ticket(t.Context(), "t", late); !isNotFound(err) {
		t.Errorf("read when expired: %v", err)
	}
	if err := s.ConsumeTicket(t.Context(), "t", late); !isNotFound(err) {
		t.Errorf("consumed when expired: %v", err)
	}
	must(t, s.ConsumeTicket(t.Context(), "t", late.Add(-time.Millisecond)))
	if err := s.PutTicket(t.Context(), ticketOf(deviceID(9), "u")); err == nil {
		t.Error("a ticket for a device that nobody enrolled")
	}
	for n := range registry.MaxTickets + 5 {
		must(t, s.PutTicket(t.Context(), ticketOf(id, fmt.Sprint("n", n))))
	}
	open := 0
	for n := range registry.MaxTickets + 5 {
		if _, err := s.Ticket(t.Context(), fmt.Sprint("n", n), start()); err == nil {
			open++
		}
	}
	if open != registry.MaxTickets {
		t.Errorf("%d tickets open, want %d", open, registry.MaxTickets)
	}
}

func nonceOnce(t *testing.T, s *registry.Store) {
	ctx := t.Context()
	a, b := enroll(t, s, 1), enroll(t, s, 2)
	nonce := []byte("0123456789abcdef0123456789abcdef")
	expires := start().Add(time.Minute)
	must(t, s.PutNonce(ctx, a, nonce, expires))
	use := func(ctx context.Context, device string, nonce []byte, at time.Time) error {
		until, err := s.ConsumeNonce(ctx, device, nonce, at)
		if err == nil && until.Before(expires) {
			err = fmt.Errorf("it would have expired at %s", until)
		}
		return err
	}
	for name, err := range map[string]error{
		"another device's": use(ctx, b, nonce, start()), "an expired": use(ctx, a, nonce, expires),
		"an unknown": use(ctx, a, nonce[1:], start()), "an empty": use(ctx, a, nil, start()),
	} {
		if !isNotFound(err) {
			t.Errorf("%s nonce: %v", name, err)
		}
	}
	if err := s.PutNonce(ctx, b, nonce, expires); err == nil {
		t.Error("the same nonce was opened for two devices")
	}
	if won := race(t, 100, func(ctx context.Context) error { return use(ctx, a, nonce, start()) }, isNotFound); won != 1 {
		t.Errorf("%d uses succeeded", won)
	}
	for n := range registry.MaxNonces + 3 {
		must(t, s.PutNonce(ctx, a, []byte{byte(n)}, expires.Add(time.Duration(n)*time.Second)))
	}
	for n := range registry.MaxNonces + 3 {
		if err := use(ctx, a, []byte{byte(n)}, start()); (err == nil) != (n >= 3) {
			t.Errorf("nonce %d of %d: %v", n, registry.MaxNonces+3, err)
		}
	}
}

func issuanceAtomic(t *testing.T, s *registry.Store) {
	ctx := t.Context()
	id := active(t, s, 1)
	must(t, s.AddCertificate(ctx, certificateOf(id, "01"), ""))
	must(t, s.PutTicket(ctx, ticketOf(id, "t")))
	if err := s.AddCertificate(ctx, certificateOf(id, "01"), "t"); err == nil || isNotFound(err) {
		t.Fatalf("a serial twice: %v", err)
	}
	other := active(t, s, 2)
	if err := s.AddCertificate(ctx, certificateOf(other, "02"), "t"); !isNotFound(err) {
		t.Errorf("another device's ticket: %v", err)
	}
	must(t, s.AddCertificate(ctx, certificateOf(id, "03"), "t"))
}

func issuanceByState(t *testing.T, s *registry.Store) {
	ctx := t.Context()
	for n, c := range []struct {
		state string
		want  error
	}{
		{registry.Pending, registry.ErrState}, {registry.Active, nil}, {registry.Quarantined, nil}, {registry.Revoked, registry.ErrState},
	} {
		id := enroll(t, s, n)
		must(t, s.SetState(ctx, id, c.state, "alice", "", start()))
		if err := s.AddCertificate(ctx, certificateOf(id, fmt.Sprint("f", n)), ""); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.state, err, c.want)
		}
	}
	if err := s.AddCertificate(ctx, certificateOf(deviceID(9), "ff"), ""); !isNotFound(err) {
		t.Errorf("a device that nobody enrolled: %v", err)
	}
	must(t, s.AddCertificate(ctx, registry.Certificate{Serial: "5e", Identity: "fleet", Profile: "service", IssuedAt: start(), DER: []byte{1}}, ""))
}

func issuanceShared(t *testing.T, s *registry.Store) {
	good, out := active(t, s, 1), active(t, s, 2)
	must(t, s.Detach(t.Context(), out, registry.Revoked, "bob", "stolen", start()))
	const n = 100
	serial := make(chan int, 2*n)
	for i := range 2 * n {
		serial <- i
	}
	won := race(t, 2*n, func(ctx context.Context) error {
		i := <-serial
		// Pairs of a good and a revoked device; every tenth serial comes twice.
		device := good
		if i%2 == 1 {
			device = out
		}
		if i%20 == 2 {
			i -= 2
		}
		gone, cancel := context.WithCancel(ctx)
		if i%6 == 0 {
			cancel() // nobody waits for it any more: it is journalled or not, but fails no other
		}
		defer cancel()
		return s.AddCertificate(gone, certificateOf(device, fmt.Sprintf("%04x", i)), "")
	}, func(error) bool { return true })
	cs, err := s.Certificates(t.Context(), good)
	must(t, err)
	if want := n - n/10; won != want || len(cs) != want {
		t.Errorf("%d succeeded, %d in the journal, want %d", won, len(cs), want)
	}
	if cs, err = s.Certificates(t.Context(), out); err != nil || len(cs) != 0 {
		t.Errorf("%d of a revoked device, %v", len(cs), err)
	}
}

func revocation(t *testing.T, s *registry.Store) {
	ctx := t.Context()
	id, other := active(t, s, 1), active(t, s, 2)
	for n, serial := range []string{"01", "02", "03", "04"} {
		c := certificateOf(id, serial)
		c.IssuedAt = start().Add(time.Duration(n) * time.Minute)
		if serial == "01" {
			c.NotAfter = start().Add(time.Minute) // expired when it comes to revoking
		}
		must(t, s.AddCertificate(ctx, c, ""))
	}
	must(t, s.AddCertificate(ctx, certificateOf(other, "05"), ""))
	now := start().Add(time.Hour)
	for _, want := range [][]string{{"02", "03"}, nil} { // the second time nothing is left to do
		got, err := s.RevokeCertificates(ctx, id, "04", "untrusted", now)
		must(t, err)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("revoked %q, want %q", got, want)
		}
	}
	for serial, want := range map[string]bool{"02": true, "03": true, "04": false, "05": false} {
		if got, err := s.IsRevoked(ctx, serial); err != nil || got != want {
			t.Errorf("%s revoked: %v, %v", serial, got, err)
		}
	}
	if _, err := s.IsRevoked(ctx, "ff"); !isNotFound(err) {
		t.Errorf("a certificate of nobody: %v", err)
	}
	listed, err := s.Revoked(ctx, now)
	must(t, err)
	if len(listed) != 2 || listed[0].Reason != "untrusted" || !listed[0].RevokedAt.Equal(now) {
		t.Errorf("revoked list %+v", listed)
	}
	if listed, err = s.Revoked(ctx, start().Add(48*time.Hour)); err != nil || len(listed) != 0 {
		t.Errorf("expired ones are still listed: %+v, %v", listed, err)
	}
	cs, err := s.Certificates(ctx, id)
	must(t, err)
	if len(cs) != 4 || cs[0].Serial != "04" || cs[3].Serial != "01" {
		t.Errorf("certificates %+v, want newest first", cs)
	}
	rows, err := s.Devices(ctx, registry.Filter{})
	must(t, err)
	if rows[0].CertSerial != "04" || !rows[0].CertNotAfter.Equal(start().Add(24*time.Hour)) {
		t.Errorf("row %+v, want the newest certificate", rows[0])
	}
}

// ended: who has lost the last good certificate lately, and only those.
func ended(t *testing.T, s *registry.Store) {
	ctx := t.Context()
	a, b := active(t, s, 1), active(t, s, 2)
	must(t, s.AddCertificate(ctx, certificateOf(a, "a1"), ""))
	quarantine := certificateOf(a, "a2")
	quarantine.Identity = "q-" + a
	must(t, s.AddCertificate(ctx, quarantine, ""))
	must(t, s.AddCertificate(ctx, certificateOf(b, "b1"), ""))
	check := func(what string, since, now time.Time, want ...string) {
		t.Helper()
		got, err := s.Ended(ctx, since, now)
		must(t, err)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	at := start().Add(time.Hour)
	check("nothing was revoked", start(), at)
	_, err := s.RevokeCertificates(ctx, a, "a2", "healed the wrong way", at)
	must(t, err)
	check("one of two identities", start(), at, a)
	check("long ago", at, at.Add(time.Minute))
	must(t, s.AddCertificate(ctx, certificateOf(a, "a3"), ""))
	check("a new certificate", start(), at)
	_, err = s.RevokeCertificates(ctx, a, "", "stolen", at)
	must(t, err)
	check("all", start(), at, a, "q-"+a)
	check("expired meanwhile", start(), start().Add(25*time.Hour))
}
