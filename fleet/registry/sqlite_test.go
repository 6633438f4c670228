package registry_test

import (
	"bytes"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/fleet/registry/registrytest"
)

func TestSQLiteHoldsTheRegistryContract(t *testing.T) {
	registrytest.Run(t, func(t *testing.T) *registry.Store { return open(t, filepath.Join(t.TempDir(), "fleet.db")) })
}

func open(tb testing.TB, path string) *registry.Store {
	tb.Helper()
	s, err := registry.OpenSQLite(path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func TestDatabaseOfALaterReleaseIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet.db")
	open(t, path)
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`INSERT INTO schema_version (version) VALUES (999)`); err != nil {
		t.Fatal(err)
	}
	if _, err := registry.OpenSQLite(path); !errors.Is(err, registry.ErrTooNew) {
		t.Errorf("opened: %v", err)
	}
}

func TestDatabaseThatCannotBeUsedIsOneClearError(t *testing.T) {
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage.db")
	if err := os.WriteFile(garbage, bytes.Repeat([]byte("no database "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"garbage": garbage, "a folder": dir, "a missing folder": filepath.Join(dir, "a", "b.db")} {
		_, err := registry.OpenSQLite(path)
		if err == nil || !strings.HasPrefix(err.Error(), "open registry") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDatabaseIsItsOwnersAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "odd name? 100%#.db")
	s := open(t, path)
	if err := s.AddAudit(t.Context(), registry.AuditEntry{By: "alice", Action: "test"}); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + suffix)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", suffix, info, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, path)
	if entries, err := again.Audit(t.Context(), 0, 0); err != nil || len(entries) != 1 {
		t.Errorf("after reopening: %+v, %v", entries, err)
	}
}

func TestCommitsReachTheDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet.db")
	s := open(t, path)
	if mode, sync := s.Durability(t.Context()); mode != "wal" || sync != 2 {
		t.Errorf("journal %s, synchronous %d; want wal, 2 (FULL)", mode, sync)
	}
}

// TestTwoServersShareOneDatabase: neither loses a write, and a ticket is one
// server's.
func TestTwoServersShareOneDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet.db")
	servers := []*registry.Store{open(t, path), open(t, path)}
	const id, each = "gw-aaaaaaaaaaaaaaaa", 40
	if _, _, err := servers[0].Enroll(t.Context(), registry.Device{ID: id, EKName: []byte("ek")}); err != nil {
		t.Fatal(err)
	}
	if err := servers[0].PutTicket(t.Context(), registry.Ticket{ID: "t", Device: id, AKPublic: []byte("ak"), Expires: time.Unix(2000, 0)}); err != nil {
		t.Fatal(err)
	}
	var won atomic.Int32
	var wg sync.WaitGroup
	for _, s := range servers {
		for range each {
			wg.Go(func() {
				if err := s.AddEvent(t.Context(), registry.Event{Device: id, Severity: registry.Info}); err != nil {
					t.Error(err)
				}
				if err := s.ConsumeTicket(t.Context(), "t", time.Unix(1000, 0)); err == nil {
					won.Add(1)
				} else if !errors.Is(err, registry.ErrNotFound) {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	events, err := servers[1].Events(t.Context(), id, 0, registry.MaxPage)
	if err != nil || len(events) != len(servers)*each || won.Load() != 1 {
		t.Errorf("%d events, ticket used %d times, %v", len(events), won.Load(), err)
	}
}
