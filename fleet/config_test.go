package fleet

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const minimal = `fleet = "lab"
[public]
api = ["https://fleet.example:8443"]
mqtt = ["mqtts://fleet.example:8883"]
`

func load(t *testing.T, text string) (Settings, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fleet.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return LoadSettings(path)
}

func TestDefaultsWorkForWhatAFileLeavesOut(t *testing.T) {
	s, err := load(t, minimal)
	if err != nil {
		t.Fatal(err)
	}
	if s.State != "/var/lib/gatewarden-fleet" || s.Policy != "/var/lib/gatewarden-fleet/policy.json" || s.EKRoots != "" {
		t.Errorf("state %s, policy %s, ek_roots %s", s.State, s.Policy, s.EKRoots)
	}
	if s.Listen != (Listen{API: ":8443", MQTT: ":8883", Dashboard: "127.0.0.1:8080", Operator: "/run/gatewarden-fleet/operator.sock"}) {
		t.Errorf("listen %+v", s.Listen)
	}
	c := s.Certificates
	if time.Duration(c.Full) != 7*24*time.Hour || time.Duration(c.Short) != 24*time.Hour || time.Duration(c.Quarantine) != 24*time.Hour ||
		time.Duration(s.Enroll.Retry) != 30*time.Second {
		t.Errorf("lives %+v, retry %v", c, s.Enroll.Retry)
	}
}

func TestWrongFleetTomlIsRefusedInOneSentence(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"empty":                 {"", []string{"`fleet`"}},
		"no addresses":          {`fleet = "lab"`, []string{"`public.api`", "`public.mqtt`"}},
		"name in capitals":      {strings.Replace(minimal, `"lab"`, `"Lab"`, 1), []string{"`fleet`", "a-z"}},
		"name begins with -":    {strings.Replace(minimal, `"lab"`, `"-lab"`, 1), []string{"`fleet`"}},
		"name too long":         {strings.Replace(minimal, `"lab"`, `"`+strings.Repeat("a", 64)+`"`, 1), []string{"`fleet`", "63"}},
		"state is relative":     {"state = \"var\"\n" + minimal, []string{"`state`", "absolute"}},
		"address without https": {strings.Replace(minimal, "https://", "http://", 1), []string{"http://fleet.example:8443", "https://host:port"}},
		"API by MQTT":           {strings.Replace(minimal, "https://", "mqtts://", 1), []string{"mqtts://fleet.example:8443", "https://host:port"}},
		"address without port":  {strings.Replace(minimal, ":8883", "", 1), []string{"mqtts://fleet.example", "mqtts://host:port"}},
		"address with a path":   {strings.Replace(minimal, ":8443", ":8443/gw", 1), []string{"https://host:port"}},
		"address is a name":     {strings.Replace(minimal, "https://fleet.example:8443", "fleet.example", 1), []string{"`public.api`"}},
		"life of nothing":       {minimal + "[certificates]\nfull = \"0s\"\n", []string{"longer than nothing"}},
		"life is no duration":   {minimal + "[certificates]\nfull = \"a week\"\n", []string{"a week"}},
		"unknown key":           {minimal + "[certificates]\nfulll = \"1h\"\n", []string{"fulll", "full", "6"}},
		"unknown section":       {minimal + "[listens]\napi = \":1\"\n", []string{"listens", "did you mean `listen`"}},
		"broker without scheme": {minimal + "[broker]\naddresses = [\"broker:8883\"]\n", []string{"broker.addresses", "mqtts://host:port"}},
		"CA for no broker":      {minimal + "[broker]\nca = \"/x\"\n", []string{"`broker.ca`", "`broker.addresses`"}},
		"certificate, no key":   {minimal + brokerSection + "certificate = \"/x\"\n", []string{"`broker.key`", "together"}},
		"no TOML":               {"fleet = = 1", []string{"fleet.toml"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, c.text)
			if err == nil {
				t.Fatal("it is accepted")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
	if _, err := LoadSettings("/nonexistent/fleet.toml"); err == nil || !strings.Contains(err.Error(), "/nonexistent/fleet.toml") {
		t.Errorf("missing file: %v", err)
	}
}
