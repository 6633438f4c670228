package conf_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/conf"
)

type file struct {
	Fleet  string `toml:"fleet"`
	Health struct {
		Interval conf.Duration `toml:"interval"`
		Checks   []string      `toml:"checks"`
		Limit    int           `toml:"limit"`
		Ratio    float64       `toml:"ratio"`
		On       bool          `toml:"on"`
	} `toml:"health"`
	Servers []struct {
		URL string `toml:"url"`
	} `toml:"server"`
	Labels map[string]string `toml:"labels"`
	Hidden string            `toml:"-"`
}

func TestRefusedWithPlaceAndHint(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"unknown key with near name": {"fleet = \"a\"\n[health]\n# note\nintervall = \"5m\"\n", "unknown key `health.intervall` at agent.toml:4; did you mean `health.interval`?"},
		"unknown table, dotted":      {"helth.interval = \"5m\"\n", "unknown key `helth.interval` at agent.toml:1; did you mean `health.interval`?"},
		"unknown table said once":    {"[helth]\ninterval = \"5m\"\n", "unknown key `helth` at agent.toml:1; did you mean `health`?"},
		"wrong table":                {"interval = \"5m\"\n", "unknown key `interval` at agent.toml:1; did you mean `health.interval`?"},
		"nothing near":               {"\nxyzzy = 1\n", "unknown key `xyzzy` at agent.toml:2"},
		"other case":                 {"Fleet = \"a\"\n", "unknown key `Fleet` at agent.toml:1; did you mean `fleet`?"},
		"hidden field":               {"Hidden = \"a\"\n", "unknown key `Hidden` at agent.toml:1"},
		"in a list of tables":        {"[[server]]\nurl = \"a\"\n[[server]]\nur = \"b\"\n", "unknown key `server.ur` at agent.toml:4; did you mean `server.url`?"},
		"in a multi-line list":       {"fleet = \"\"\"\nxyzzy = 1\n\"\"\"\nxyzzy = [\n 1,\n]\n", "unknown key `xyzzy` at agent.toml:4"},
		"string for number":          {"[health]\nlimit = \"5\"\n", "key `health.limit` at agent.toml:2: a whole number is wanted, but the value is a string (in quotes)"},
		"number for string":          {"fleet = 5\n", "key `fleet` at agent.toml:1: a string (in quotes) is wanted, but the value is a whole number"},
		"number for duration":        {"[health]\ninterval = 300\n", "key `health.interval` at agent.toml:2: a string (in quotes) is wanted, but the value is a whole number"},
		"duration without unit":      {"[health]\ninterval = \"300\"\n", "key `health.interval` at agent.toml:2: \"300\" is no time span"},
		"negative duration":          {"[health]\ninterval = \"-5m\"\n", "key `health.interval` at agent.toml:2: a time span can't be negative"},
		"string for list":            {"[health]\nchecks = \"disk\"\n", "key `health.checks` at agent.toml:2: a list (in square brackets) is wanted"},
		"string for bool":            {"[health]\non = \"yes\"\n", "key `health.on` at agent.toml:2: true or false is wanted"},
		"value for table":            {"health = 1\n", "key `health` at agent.toml:1: a table is wanted"},
		"table for list of tables":   {"server = \"x\"\n", "key `server` at agent.toml:1: a list of tables is wanted"},
		"wrong element":              {"[health]\nchecks = [1]\n", "agent.toml"},
		"wrong map value":            {"[labels]\na = 1\n", "key `labels.a` at agent.toml:2: a string (in quotes) is wanted"},
		"key twice":                  {"fleet = \"a\"\nfleet = \"b\"\n", "agent.toml:2"},
		"garbage":                    {"fleet = \n", "agent.toml:1"},
		"not text":                   {"\x00\xff", "agent.toml:1"},
	} {
		t.Run(name, func(t *testing.T) {
			var f file
			err := conf.Decode([]byte(c.in), "agent.toml", &f)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\nwant it to contain %s", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one sentence: %v", err)
			}
		})
	}
}

func TestEveryUnknownKeyIsNamedAtOnce(t *testing.T) {
	var f file
	err := conf.Decode([]byte("a1 = 1\nfleet = \"x\"\nb2 = 2\n"), "f", &f)
	if err == nil || !strings.Contains(err.Error(), "`a1` at f:1") || !strings.Contains(err.Error(), "`b2` at f:3") {
		t.Errorf("got %v", err)
	}
}

func TestAFileFullOfFaultsIsNotToldWhole(t *testing.T) {
	var text strings.Builder
	for i := range 10000 {
		fmt.Fprintf(&text, "x%d = 1\n", i)
	}
	var f file
	err := conf.Decode([]byte(text.String()), "f", &f)
	if err == nil || strings.Count(err.Error(), "\n") != 10 || !strings.HasSuffix(err.Error(), "more faults in f") {
		t.Errorf("got %v", err)
	}
}

func TestLoadKeepsDefaultsAndReadsAllTypes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.toml")
	text := "fleet = \"acme\"\n[health]\ninterval = \"1h30m\"\nchecks = [\"disk\"]\nratio = 2\non = true\n[[server]]\nurl = \"a\"\n[[server]]\nurl = \"b\"\n[labels]\nsite = \"x\"\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var f file
	f.Health.Limit = 7
	if err := conf.Load(path, &f); err != nil {
		t.Fatal(err)
	}
	if f.Fleet != "acme" || time.Duration(f.Health.Interval) != 90*time.Minute || f.Health.Limit != 7 || f.Health.Ratio != 2 || !f.Health.On ||
		len(f.Servers) != 2 || f.Servers[1].URL != "b" || f.Labels["site"] != "x" {
		t.Errorf("got %+v", f)
	}
}

func TestMissingAndHugeFiles(t *testing.T) {
	dir := t.TempDir()
	var f file
	if err := conf.Load(filepath.Join(dir, "none.toml"), &f); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: got %v", err)
	}
	huge := filepath.Join(dir, "huge.toml")
	if err := os.WriteFile(huge, make([]byte, conf.MaxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := conf.Load(huge, &f); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("huge file: got %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("[health]\ninterval = \"5m\"\n"))
	f.Add([]byte("[[server]]\nur.x = 1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var v file
		err := conf.Decode(data, "f", &v)
		if err == nil && v.Health.Interval < 0 {
			t.Error("negative duration accepted")
		}
	})
}
