package registry_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
)

func TestDatabasesOfEarlierReleasesAreKept(t *testing.T) {
	for version := 1; version <= 4; version++ {
		t.Run(fmt.Sprint("schema ", version), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "fleet.db")
			if err := registry.MigrateTo(t.Context(), path, version); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time nothing is left to do
				s := open(t, path)
				d, err := s.Device(t.Context(), killDevice)
				if err != nil || d.State != registry.Active || d.ApprovedBy != "alice" {
					t.Errorf("device %+v, %v", d, err)
				}
				ticket, err := s.Ticket(t.Context(), "t", time.Unix(1, 0))
				if err != nil || ticket.Device != killDevice || ticket.Token != "" {
					t.Errorf("ticket %+v, %v", ticket, err)
				}
				if err := s.AddToken(t.Context(), registry.Token{ID: fmt.Sprint(time.Now().UnixNano())}); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
