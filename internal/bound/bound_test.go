package bound

import (
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/wire"
)

func event(t *testing.T, index uint64, prev [32]byte, name, text string) (wire.Event, [32]byte) {
	t.Helper()
	line, err := json.Marshal(Entry{Version: 1, Index: index, Time: time.Unix(1, 0).UTC(), Name: name, Text: text, Prev: hex.EncodeToString(prev[:])})
	if err != nil {
		t.Fatal(err)
	}
	head := Head(prev, line)
	return wire.Event{Version: 1, Name: name, Text: text, Index: index, Head: hex.EncodeToString(head[:]), Entry: line}, head
}

// An event that differs from the entry behind its head in anything is not it.
func TestEventIsTheEntryBehindItsHeadOrNothing(t *testing.T) {
	first, head := event(t, 1, [32]byte{}, "a.b", "one")
	second, _ := event(t, 2, head, "a.c", "two")
	if prev, err := Open(second); err != nil || prev != first.Head {
		t.Fatalf("prev %q, %v", prev, err)
	}
	for name, alter := range map[string]func(*wire.Event){
		"name":          func(e *wire.Event) { e.Name = "a.d" },
		"text":          func(e *wire.Event) { e.Text = "three" },
		"index":         func(e *wire.Event) { e.Index = 3 },
		"head":          func(e *wire.Event) { e.Head = first.Head },
		"entry":         func(e *wire.Event) { e.Entry = first.Entry },
		"no entry":      func(e *wire.Event) { e.Entry = nil },
		"a byte behind": func(e *wire.Event) { e.Entry = append(e.Entry[:len(e.Entry):len(e.Entry)], ' ') },
		"text and entry": func(e *wire.Event) {
			e.Text, e.Entry = "six", []byte(strings.Replace(string(e.Entry), "two", "six", 1))
		},
		"entry of a list": func(e *wire.Event) { e.Entry = []byte(`[]`) },
	} {
		altered := second
		alter(&altered)
		if _, err := Open(altered); err == nil {
			t.Errorf("%s altered: accepted", name)
		}
	}
}

func TestPostureLeavesTimesOutAndConfusesNoFindings(t *testing.T) {
	a := []wire.Finding{{Check: "a", Status: "ok", Summary: "x", Since: time.Unix(1, 0)}}
	b := []wire.Finding{{Check: "a", Status: "ok", Summary: "x", Since: time.Unix(2, 0)}}
	if Posture(a) != Posture(b) {
		t.Error("time changes the posture")
	}
	c := []wire.Finding{{Check: "ao", Status: "k", Summary: "x"}}
	if Posture(a) == Posture(c) || Posture(a) == Posture(append(a, a...)) {
		t.Error("different findings have the same posture")
	}
}

func TestOutcomeIsBoundedAndNamesTheRelease(t *testing.T) {
	u := wire.Update{Outcome: wire.UpdateFailed, Rule: "hash", Release: "2", From: "1", Text: strings.Repeat("ä", wire.MaxText)}
	name, text := Outcome(u)
	if name != "update.failed" || !strings.HasPrefix(text, "release 2 over 1: failed hash ä") || len(text) > wire.MaxText || !strings.HasSuffix(text, "ä") {
		t.Errorf("%s: %d bytes, %q", name, len(text), text[:40])
	}
}
