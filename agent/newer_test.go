package agent_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestStateOfALaterReleaseIsRead: an agent whose update was left again finds what the
// later release wrote, with keys that it does not know. Nothing of it counts as damage:
// it is the same device with the same memory, and tells the fleet of no loss.
func TestStateOfALaterReleaseIsRead(t *testing.T) {
	w := newWorld(t)
	r := w.enrolled(t, build())
	device := r.Device()
	if err := r.Anchor(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.end(t)
	state := w.gateway.Settings.State
	var later []string
	for _, name := range stateFiles(t, state) {
		if folder := filepath.Dir(name); filepath.Ext(name) == ".json" && (folder == "." || folder == "identity") {
			spoil(t, filepath.Join(state, name), func(data []byte) []byte {
				return bytes.Replace(data, []byte("{"), []byte(`{"of_a_later_release":{"a":[1]},`), 1)
			})
			later = append(later, name)
		}
	}
	for _, want := range []string{"format.json", "time-floor.json", "anchor.json", "verdict.json", "identity/ek.json", "identity/history.json"} {
		if !slices.Contains(later, want) {
			t.Errorf("the state folder holds no %s: %q", want, later)
		}
	}
	began := time.Now()
	r = w.run(t, build())
	if err := r.Anchor(t.Context()); err != nil {
		t.Error(err)
	}
	if s := r.await(t, well(began)); s.Device != device || s.Problem != "" || strings.Contains(s.Certificate.Why, "not known") {
		t.Errorf("status %+v, %+v", s, s.Certificate)
	}
	for _, event := range r.Audit(100) {
		if strings.HasPrefix(event, "audit.") || strings.HasSuffix(event, "-lost") || strings.HasSuffix(event, "-damaged") {
			t.Errorf("%s though nothing was lost", event)
		}
	}
	for _, name := range []string{"format.json", "identity/ek.json"} { // as damage they would be made anew
		if data, err := os.ReadFile(filepath.Join(state, name)); !bytes.Contains(data, []byte("later_release")) {
			t.Errorf("%s was written anew: %s %v", name, data, err)
		}
	}
}
