package registry

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestPagesAreServedByIndexes: a page costs the same in a fleet of any size only
// if the database neither scans nor sorts for it.
func TestPagesAreServedByIndexes(t *testing.T) {
	s, err := OpenSQLite(filepath.Join(t.TempDir(), "fleet.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, f := range []Filter{{}, {State: Active}, {Grade: "trusted"}, {Model: "m"}, {State: Active, Grade: "trusted"}} {
		where, args := f.where()
		plan, err := list(t.Context(), s.reader, func(r row) (step string, err error) {
			var id, parent, unused int
			return step, r.Scan(&id, &parent, &unused, &step)
		}, `EXPLAIN QUERY PLAN SELECT id, hostname FROM devices WHERE `+where+` ORDER BY id LIMIT 50`, args...)
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range plan {
			if strings.HasPrefix(step, "SCAN devices") || strings.Contains(step, "TEMP B-TREE FOR ORDER") {
				t.Errorf("%+v: %s", f, strings.Join(plan, "; "))
			}
		}
	}
}
