package wire_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// testdata/peers holds, for each release whose peers are still about, what it sent
// (NAME.json, recorded) and what it read (NAME.schema.json, docs/schema as it was).
// A folder is added with a release and never changed: it stands for gateways and
// servers that nobody has updated yet.
const peersFolder = "testdata/peers"

// sentOnWish lists keys that a closed message got after a release that refuses
// them, with what keeps them from a peer that can't read them.
func sentOnWish() map[string]string {
	return map[string]string{
		"claims.software_keys": "a gateway without a TPM, which no server admits that can't read it",
	}
}

func peers(t *testing.T) []string {
	t.Helper()
	folders, err := filepath.Glob(filepath.Join(peersFolder, "*"))
	if err != nil || len(folders) == 0 {
		t.Fatalf("no peers in %s: %v", peersFolder, err)
	}
	return folders
}

// of lists the messages in a peer's folder.
func of(t *testing.T, folder string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(folder, "*.schema.json"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no schemas in %s: %v", folder, err)
	}
	for i, path := range found {
		found[i] = strings.TrimSuffix(filepath.Base(path), ".schema.json")
	}
	return found
}

// TestMessagesOfOlderPeersAreRead: whatever changed since, and whole.
func TestMessagesOfOlderPeersAreRead(t *testing.T) {
	for _, folder := range peers(t) {
		for _, name := range of(t, folder) {
			sent, err := os.ReadFile(filepath.Join(folder, name+".json"))
			if err != nil {
				t.Fatal(err)
			}
			read, err := decode(name, sent)
			if err != nil {
				t.Errorf("%s of %s: %v", name, folder, err)
				continue
			}
			again, err := json.Marshal(read)
			if err != nil {
				t.Fatal(err)
			}
			if lost := missing(generic(t, sent), generic(t, again)); lost != "" {
				t.Errorf("%s of %s: %s is not read any more", name, folder, lost)
			}
		}
	}
}

// TestOlderPeersReadWhatWeSend: our messages have all that they need, in the form
// that they know, and nothing that they refuse.
func TestOlderPeersReadWhatWeSend(t *testing.T) {
	for _, folder := range peers(t) {
		for _, name := range of(t, folder) {
			theirs := schemaIn(t, filepath.Join(folder, name+".schema.json"))
			if published()[name] == nil {
				t.Errorf("%s is sent no more, and %s waits for it", name, folder)
				continue
			}
			for _, fault := range refused(name, theirs, readSchema(t, name)) {
				t.Errorf("%s refuses what we send: %s", folder, fault)
			}
		}
	}
}

// refused lists why a reader who knows theirs can't read what a writer of ours sends.
func refused(at string, theirs, ours *schema) []string {
	if theirs.Type != ours.Type || theirs.Format != ours.Format || theirs.Encoding != ours.Encoding || theirs.Pattern != ours.Pattern ||
		theirs.Const != nil && ours.Const != theirs.Const {
		return []string{at + " has another form now"}
	}
	var faults []string
	if theirs.Items != nil {
		faults = refused(at+"[]", theirs.Items, ours.Items)
	}
	for key, value := range theirs.Properties {
		switch now := ours.Properties[key]; {
		case now != nil:
			faults = append(faults, refused(at+"."+key, value, now)...)
		case slices.Contains(theirs.Required, key):
			faults = append(faults, at+"."+key+" is gone")
		}
		if slices.Contains(theirs.Required, key) && !slices.Contains(ours.Required, key) {
			faults = append(faults, at+"."+key+" is not always sent any more")
		}
	}
	for key := range ours.Properties {
		closed := theirs.Values != nil && theirs.Values.Nothing != nil
		if theirs.Properties[key] == nil && closed && sentOnWish()[at+"."+key] == "" {
			faults = append(faults, at+"."+key+" is unknown there")
		}
	}
	return faults
}

// missing names the first thing of want that got lacks or has otherwise.
func missing(want, got any) string {
	if object, ok := want.(map[string]any); ok {
		have, _ := got.(map[string]any)
		for _, key := range slices.Sorted(maps.Keys(object)) {
			if _, ok := have[key]; !ok {
				return key
			}
			if lost := missing(object[key], have[key]); lost != "" {
				return key + "." + lost
			}
		}
		return ""
	}
	if list, ok := want.([]any); ok {
		have, _ := got.([]any)
		for i, value := range list {
			if i >= len(have) {
				return fmt.Sprint(i)
			}
			if lost := missing(value, have[i]); lost != "" {
				return fmt.Sprintf("%d.%s", i, lost)
			}
		}
		return ""
	}
	if !reflect.DeepEqual(want, got) {
		return fmt.Sprint(want)
	}
	return ""
}

// TestChangesThatBreakAnOlderPeerAreSeen: the comparison itself, on what people do.
func TestChangesThatBreakAnOlderPeerAreSeen(t *testing.T) {
	object := func(closed bool, required string, properties map[string]*schema) *schema {
		s := &schema{Type: "object", Properties: properties, Values: &schema{}}
		if required != "" {
			s.Required = []string{required}
		}
		if closed {
			s.Values = &schema{Nothing: &struct{}{}}
		}
		return s
	}
	text, number := &schema{Type: "string"}, &schema{Type: "integer"}
	before := map[string]*schema{"a": text}
	for name, c := range map[string]struct {
		theirs, ours *schema
		want         string
	}{
		"a key more, where they are passed over": {object(false, "a", before), object(false, "a", map[string]*schema{"a": text, "b": text}), ""},
		"a key more, where they are refused":     {object(true, "a", before), object(true, "a", map[string]*schema{"a": text, "b": text}), "m.b is unknown there"},
		"a key less":                             {object(false, "a", before), object(false, "", nil), "m.a is gone"},
		"a key that is optional now":             {object(false, "a", before), object(false, "", before), "m.a is not always sent any more"},
		"another type":                           {object(false, "a", before), object(false, "a", map[string]*schema{"a": number}), "m.a has another form now"},
		"another version":                        {&schema{Type: "integer", Const: 1.0}, &schema{Type: "integer", Const: 2.0}, "m has another form now"},
	} {
		faults := refused("m", c.theirs, c.ours)
		if c.want == "" && len(faults) > 0 || c.want != "" && !slices.Contains(faults, c.want) {
			t.Errorf("%s: %q, want %q", name, faults, c.want)
		}
	}
}
