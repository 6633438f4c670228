package registry_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
)

func TestFullDiskIssuesNothingHalfAndBurnsNoTicket(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "fleet.db"))
	ctx := t.Context()
	if _, _, err := s.Enroll(ctx, registry.Device{ID: killDevice, EKName: []byte("ek")}); err != nil {
		t.Fatal(err)
	}
	if err := s.SetState(ctx, killDevice, registry.Active, "alice", "", time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	const n = 30
	for i := range n {
		if err := s.PutTicket(ctx, registry.Ticket{ID: fmt.Sprint(i), Device: killDevice, AKPublic: []byte("ak"), Expires: time.Unix(2000, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	issue := func(i int) error {
		return s.AddCertificate(context.WithoutCancel(ctx), registry.Certificate{
			Serial: fmt.Sprint(i), Device: killDevice, NotAfter: time.Unix(2000, 0), IssuedAt: time.Unix(1000, 0), DER: make([]byte, 3000),
		}, fmt.Sprint(i))
	}
	if err := s.Room(ctx, 6); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var failed [n]atomic.Bool
	for i := range n {
		wg.Go(func() { failed[i].Store(issue(i) != nil) })
	}
	wg.Wait()
	if err := s.Room(ctx, -1); err != nil {
		t.Fatal(err)
	}
	lost := 0
	for i := range n {
		_, err := s.Certificate(ctx, fmt.Sprint(i))
		_, ticket := s.Ticket(ctx, fmt.Sprint(i), time.Unix(1000, 0))
		if failed[i].Load() != (err != nil) || failed[i].Load() != (ticket == nil) {
			t.Errorf("%d: failed %v, journal %v, ticket %v", i, failed[i].Load(), err, ticket)
		}
		if failed[i].Load() {
			lost++
			if err := issue(i); err != nil {
				t.Errorf("with room again: %v", err)
			}
		}
	}
	if lost == 0 || lost == n {
		t.Errorf("%d of %d failed: the disk was not full in the middle", lost, n)
	}
}
