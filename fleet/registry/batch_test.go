package registry

import (
	"context"
	"database/sql"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

// TestCallersThatAreReadyShareACommit: on one processor nobody else can come between
// a caller and its commit, unless the caller lets them.
func TestCallersThatAreReadyShareACommit(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	s, err := OpenSQLite(filepath.Join(t.TempDir(), "fleet.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const rounds, callers = 20, 32
	commits := 0
	for range rounds {
		shared := map[*sql.Tx]int{} // filled by one leader at a time
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				err := s.writeShared(t.Context(), func(_ context.Context, tx *sql.Tx) error {
					shared[tx]++
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		commits += len(shared)
	}
	if commits >= 2*rounds { // the first caller alone, then the others
		t.Errorf("%d commits for %d times %d callers", commits, rounds, callers)
	}
}
