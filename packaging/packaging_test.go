// Package packaging_test compares the configuration files that are installed
// with the defaults of the programs.
package packaging_test

import (
	"os"
	"reflect"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gatewarden/gatewarden/agent"
	"github.com/gatewarden/gatewarden/fleet"
	"github.com/gatewarden/gatewarden/internal/conf"
)

// decode reads a file with its commented keys switched on.
func decode(t *testing.T, name string, v any) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data = regexp.MustCompile(`(?m)^#([a-z_]+ =)`).ReplaceAll(data, []byte("$1"))
	if err := conf.Decode(data, name, v); err != nil {
		t.Fatal(err)
	}
	var listed map[string]any
	if err := conf.Decode(data, name, &listed); err != nil {
		t.Fatal(err)
	}
	everyKey(t, reflect.TypeOf(v).Elem(), listed, name+": ")
}

// everyKey fails for each key of t that the file does not list: a default that
// is empty would not be missed by comparing values.
func everyKey(t *testing.T, settings reflect.Type, listed map[string]any, path string) {
	t.Helper()
	for i := range settings.NumField() {
		f := settings.Field(i)
		key := f.Tag.Get("toml")
		if key == "-" { // not a setting
			continue
		}
		value, ok := listed[key]
		if !ok {
			t.Errorf("%s%s is not listed", path, key)
		}
		if table, ok := value.(map[string]any); ok && f.Type.Kind() == reflect.Struct {
			everyKey(t, f.Type, table, path+key+".")
		}
	}
}

func TestAgentFileListsEveryKeyWithItsDefault(t *testing.T) {
	var s agent.Settings
	decode(t, "agent.toml", &s)
	if diff := cmp.Diff(agent.DefaultSettings(), s); diff != "" {
		t.Errorf("agent.toml (+) against the defaults (-):\n%s", diff)
	}
}

func TestAgentFileWorksAsItIs(t *testing.T) {
	if _, err := agent.LoadSettings("agent.toml"); err != nil {
		t.Error(err)
	}
}

func TestFleetFileListsEveryKeyWithItsDefault(t *testing.T) {
	var s fleet.Settings
	decode(t, "fleet.toml", &s)
	want := fleet.DefaultSettings()
	want.Fleet, want.Public = s.Fleet, s.Public // these have none
	if diff := cmp.Diff(want, s, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("fleet.toml (+) against the defaults (-):\n%s", diff)
	}
	if s.Fleet == "" || len(s.Public.API) == 0 || len(s.Public.MQTT) == 0 {
		t.Error("a key that must be set is not shown")
	}
}

func TestFleetFileWorksAsItIs(t *testing.T) {
	if _, err := fleet.LoadSettings("fleet.toml"); err != nil {
		t.Error(err)
	}
}
