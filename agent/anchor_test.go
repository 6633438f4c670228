package agent_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestTruncatedAuditLogIsSeen: whoever is root cuts the last entries off, cuts them
// off and puts the old anchor record back too, or removes the record. Each is an entry
// in the log that is left, and so a message to the fleet. Nothing is said of an honest
// restart.
func TestTruncatedAuditLogIsSeen(t *testing.T) {
	w := newWorld(t)
	r := w.enrolled(t, build())
	state := func(name string) string { return filepath.Join(w.gateway.Settings.State, name) }
	read := func(name string) []byte {
		data, err := os.ReadFile(state(name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	anchorIt := func() {
		t.Helper()
		if err := r.Anchor(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	restart := func() {
		t.Helper()
		r = w.run(t, build())
		anchorIt()
	}
	anchorIt()
	oldRecord, oldLog := read("anchor.json"), read("audit.log")
	r.end(t)
	restart()
	r.end(t)
	restart()
	for _, name := range r.Audit(100) {
		if strings.HasPrefix(name, "audit.") {
			t.Errorf("%s though nothing happened", name)
		}
	}
	grown := read("audit.log")
	r.end(t)
	for name, c := range map[string]struct {
		log, record []byte
		want        string
	}{
		"cut":                 {oldLog, nil, "audit.truncated"},
		"cut with its record": {oldLog, oldRecord, "audit.anchor-differs"},
		"record lost":         {grown, []byte{}, "audit.anchor-differs"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(state("audit.log"), c.log, 0o600); err != nil {
				t.Fatal(err)
			}
			switch {
			case c.record == nil:
			case len(c.record) == 0:
				if err := os.Remove(state("anchor.json")); err != nil {
					t.Fatal(err)
				}
			default:
				if err := os.WriteFile(state("anchor.json"), c.record, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			restart()
			defer r.end(t)
			if names := r.Audit(5); !slices.Contains(names, c.want) {
				t.Errorf("audit log says %v, not %s", names, c.want)
			}
		})
	}
}
