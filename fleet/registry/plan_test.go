package registry

import (
	"database/sql"
	"path/filepath"
	"strings"
	"testing"
)

// plans returns what the database does for a query, step by step.
func plans(t *testing.T) func(query string, args ...any) []string {
	t.Helper()
	s, err := OpenSQLite(filepath.Join(t.TempDir(), "fleet.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return func(query string, args ...any) []string {
		t.Helper()
		steps, err := list(t.Context(), s.reader, func(r row) (step string, err error) {
			var id, parent, unused int
			return step, r.Scan(&id, &parent, &unused, &step)
		}, `EXPLAIN QUERY PLAN `+query, args...)
		if err != nil {
			t.Fatal(err)
		}
		return steps
	}
}

// TestPagesAreServedByIndexes: a page costs the same in a fleet of any size only
// if the database neither scans nor sorts for it.
func TestPagesAreServedByIndexes(t *testing.T) {
	plan := plans(t)
	for _, f := range []Filter{{}, {State: Active}, {Grade: "trusted"}, {Model: "m"}, {State: Active, Grade: "trusted"}} {
		where, args := f.where()
		steps := plan(`SELECT id, hostname FROM devices WHERE `+where+` ORDER BY id LIMIT 50`, args...)
		for _, step := range steps {
			if strings.HasPrefix(step, "SCAN devices") || strings.Contains(step, "TEMP B-TREE FOR ORDER") {
				t.Errorf("%+v: %s", f, strings.Join(steps, "; "))
			}
		}
	}
	steps := strings.Join(plan(releaseQuery(2), "a", "b"), "; ")
	if strings.Contains(steps, "SCAN") || strings.Contains(steps, "TEMP B-TREE") || strings.Count(steps, "USING COVERING INDEX") != 2 {
		t.Errorf("counts by release: %s", steps)
	}
}

// TestFirmwareIsNotCountedWhenAPageIsShown: what it shows was counted before.
func TestFirmwareIsNotCountedWhenAPageIsShown(t *testing.T) {
	plan := strings.Join(plans(t)(proposalQuery+` ORDER BY devices DESC, others DESC LIMIT 100`), "; ")
	if !strings.Contains(plan, "USING INDEX firmware_proposed") || !strings.Contains(plan, "SEARCH every USING INDEX") || strings.Contains(plan, "TEMP B-TREE") || strings.Contains(plan, "devices_") {
		t.Errorf("plan: %s", plan)
	}
}

// TestFallsAreCountedFromAnIndex: in a bad hour every verdict asks.
func TestFallsAreCountedFromAnIndex(t *testing.T) {
	if plan := strings.Join(plans(t)(fallQuery, "box", 0, 1), "; "); strings.Count(plan, "USING COVERING INDEX devices_fallen") != 2 {
		t.Errorf("plan: %s", plan)
	}
}

// A database of the first schema keeps its devices and takes in what came later.
func TestDatabaseOfTheFirstSchemaIsBroughtUpToDate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet.db")
	db, err := sql.Open("sqlite", sqliteDSN(path, false))
	if err != nil {
		t.Fatal(err)
	}
	names := strings.NewReplacer("{TEXT}", sqlite.text, "{BLOB}", sqlite.blob, "{ID}", sqlite.id)
	for _, statement := range append(schema1(), `CREATE TABLE schema_version (version BIGINT NOT NULL)`, `INSERT INTO schema_version VALUES (1)`,
		`INSERT INTO devices VALUES ('gw-a', 'm', 'h', 'h', '1', 'active', x'01', x'01', NULL, x'01', 1, 'trusted', 1, 1, 1, 'alice', 1, '', '', 0, 0)`) {
		if _, err := db.Exec(names.Replace(statement)); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := OpenSQLite(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if d, err := s.Device(t.Context(), "gw-a"); err != nil || d.State != Active || d.Running != "" {
		t.Errorf("device %+v, %v", d, err)
	}
	if err := s.AddVerdict(t.Context(), Verdict{Device: "gw-a", Grade: "trusted", Release: "edge 1"}); err != nil {
		t.Error(err)
	}
}
