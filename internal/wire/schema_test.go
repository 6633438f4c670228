package wire_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/helperwire"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/softkey"
	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/update/release"
)

var update = flag.Bool("update", false, "write docs/schema anew")

const schemaFolder = "../../docs/schema"

// published lists every message and document whose form others rely on, by the
// name of its file in docs/schema.
func published() map[string]any {
	return map[string]any{
		"hello": wire.Hello{}, "challenge": wire.Challenge{}, "verdict": wire.Verdict{}, "ack": wire.Ack{}, "signed": wire.Signed{},
		"up": wire.Up{}, "health": wire.Health{}, "event": wire.Event{}, "linktest": wire.LinkTest{}, "update": wire.Update{},
		"envelope": wire.Envelope{}, "command": wire.Command{}, "receipt": wire.Receipt{}, "receipt-body": wire.ReceiptBody{},
		"enroll-request": wire.EnrollRequest{}, "enroll-challenge": wire.EnrollChallenge{}, "key-proof": wire.KeyProof{},
		"software-request": softkey.Request{}, "software-challenge": softkey.Challenge{}, "problem": wire.Problem{},
		"evidence": attest.Evidence{}, "claims": attest.Claims{}, "attestation-policy": attest.Policy{}, "recorded-evidence": attest.Recorded{},
		"fleet": policy.Fleet{}, "operators": policy.Operators{}, "release": release.Release{},
		"helper-request": helperwire.Request{}, "helper-response": helperwire.Response{},
	}
}

func names() []string { return slices.Sorted(maps.Keys(published())) }

// informs lists what authorises nothing: peers of other versions may put more into
// it than we know (docs/adr/034).
func informs() []string {
	return []string{
		"hello", "challenge", "verdict", "ack", "signed", "up", "health", "event", "linktest", "update", "receipt", "receipt-body",
		"enroll-request", "enroll-challenge", "key-proof", "problem",
	}
}

// decode reads a message as its receiver does.
func decode(name string, data []byte) (any, error) {
	v := reflect.New(reflect.TypeOf(published()[name])).Interface()
	if slices.Contains(informs(), name) {
		return v, strictjson.Inform(data, v)
	}
	return v, strictjson.Unmarshal(data, v)
}

// TestSchemasAreThoseOfTheCode: `go test ./internal/wire -run Schemas -update`
// writes them; the diff is for review, because others decode by them.
func TestSchemasAreThoseOfTheCode(t *testing.T) {
	for _, name := range names() {
		want := schemaText(t, name)
		path := filepath.Join(schemaFolder, name+".json")
		if *update {
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(have, want) {
			t.Errorf("%s is not what the code says (%v): go test ./internal/wire -run Schemas -update", path, err)
		}
	}
	files, err := filepath.Glob(filepath.Join(schemaFolder, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		if name := strings.TrimSuffix(filepath.Base(path), ".json"); !slices.Contains(names(), name) {
			t.Errorf("%s is the schema of nothing", path)
		}
	}
}

func schemaText(t *testing.T, name string) []byte {
	t.Helper()
	root := newSchemas(t, slices.Contains(informs(), name)).of(reflect.TypeOf(published()[name]))
	root.Schema, root.ID = "https://json-schema.org/draft/2020-12/schema", name+".json"
	data, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(data, '\n')
}

// example is a message of a real run (docs/schema/examples).
func example(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(schemaFolder, "examples", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func readSchema(t *testing.T, name string) *schema {
	t.Helper()
	return schemaIn(t, filepath.Join(schemaFolder, name+".json"))
}

func schemaIn(t *testing.T, path string) *schema {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := &schema{}
	if err := json.Unmarshal(data, s); err != nil {
		t.Fatal(err)
	}
	return s
}

func generic(t *testing.T, data []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestRecordedMessagesFitSchemaAndCode: what earlier releases sent is accepted
// by the schema, decodes, and encodes to the same again.
func TestRecordedMessagesFitSchemaAndCode(t *testing.T) {
	for _, name := range names() {
		data := example(t, name)
		if err := readSchema(t, name).validate(name, generic(t, data)); err != nil {
			t.Errorf("example %s: %v", name, err)
		}
		v, err := decode(name, data)
		if err != nil {
			t.Errorf("decode example %s: %v", name, err)
			continue
		}
		again, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(generic(t, again), generic(t, data)) {
			t.Errorf("example %s comes out as %s", name, again)
		}
	}
}

// TestDocumentsInTheExamplesAreAccepted by those who read them on a device or
// a server: form alone is not enough for these.
func TestDocumentsInTheExamplesAreAccepted(t *testing.T) {
	for name, parse := range map[string]func([]byte) error{
		"fleet":              func(b []byte) error { _, err := policy.ParseFleet(b); return err },
		"operators":          func(b []byte) error { _, err := policy.ParseOperators(b); return err },
		"release":            func(b []byte) error { _, err := release.Parse(b); return err },
		"attestation-policy": func(b []byte) error { _, err := attest.ParsePolicy(b); return err },
	} {
		if err := parse(example(t, name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSchemasRefuseWhatTheCodeRefuses: a key that nobody defined, where it is not
// passed over, and one that is missing.
func TestSchemasRefuseWhatTheCodeRefuses(t *testing.T) {
	for _, name := range names() {
		s := readSchema(t, name)
		message := func() map[string]any { return generic(t, example(t, name)).(map[string]any) }
		more := message()
		more["unheard_of"] = true
		data, err := json.Marshal(more)
		if err != nil {
			t.Fatal(err)
		}
		_, err = decode(name, data)
		if open := slices.Contains(informs(), name); (s.validate(name, more) == nil) != open || (err == nil) != open {
			t.Errorf("%s: an unknown key: %v by the schema, %v by the code", name, s.validate(name, more), err)
		}
		for _, key := range s.Required {
			less := message()
			delete(less, key)
			if s.validate(name, less) == nil {
				t.Errorf("%s: accepted without %s", name, key)
			}
			wrong := message()
			wrong[key] = map[string]any{"a": []any{}}
			if s.Properties[key].Type != "object" && s.Properties[key].Type != "" && s.validate(name, wrong) == nil {
				t.Errorf("%s: accepted with an object as %s", name, key)
			}
		}
	}
}
