package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/agent/health"
	"github.com/gatewarden/gatewarden/internal/conf"
	"github.com/gatewarden/gatewarden/tpm"
)

// Settings is agent.toml. Every key has a default that works on an installed
// gateway.
type Settings struct {
	State    string   `toml:"state"`  // folder of keys, outbox and logs
	Trust    string   `toml:"trust"`  // folder of fleet.json and operators.json, root-owned
	Socket   string   `toml:"socket"` // where the CLI asks
	Helper   string   `toml:"helper"` // the root helper's socket
	TPM      string   `toml:"tpm"`    // device, swtpm:PATH of an emulator, or unix:PATH of a resource manager
	Slot     string   `toml:"slot"`   // name of the running slot, where the helper does not know it
	Identity Identity `toml:"identity"`
	Health   Health   `toml:"health"`
	Attest   Attest   `toml:"attest"`
	Outbox   Outbox   `toml:"outbox"`
	Update   Update   `toml:"update"`

	TPMAuth tpm.Auth `toml:"-"` // passwords of the chip's hierarchies: credentials, not settings
}

// Identity says how the device introduces itself.
type Identity struct {
	Model    string `toml:"model"`    // hardware model; by default what the firmware says
	Hostname string `toml:"hostname"` // what operators see beside the id; by default the machine's host name
	Token    string `toml:"token"`    // one-time enrolment token
	CA       string `toml:"ca"`       // SHA-256 of the fleet's root certificate, where fleet.json names no anchors
	// AllowSoftwareKeys lets the agent work where there is no TPM, with keys in files.
	// It changes nothing where there is one.
	AllowSoftwareKeys bool `toml:"allow_software_keys"`
}

// Health says how often the device reports.
type Health struct {
	Interval conf.Duration `toml:"interval"`
	Services string        `toml:"services"` // folder where the machine's own programs say how they do
}

// Attest says how often the device asks to be judged.
type Attest struct {
	Interval conf.Duration `toml:"interval"`
}

// Outbox bounds what is kept while there is no connection.
type Outbox struct {
	MaxMessages int   `toml:"max_messages"`
	MaxBytes    int64 `toml:"max_bytes"`
}

// DefaultSettings are the values of all keys that an agent.toml leaves out.
func DefaultSettings() Settings {
	return Settings{
		State:  "/var/lib/gatewarden",
		Trust:  "/etc/gatewarden/trust",
		Socket: "/run/gatewarden/agent.sock",
		Helper: "/run/gatewarden/helper.sock",
		TPM:    "/dev/tpmrm0",
		Health: Health{Interval: conf.Duration(time.Minute), Services: health.DefaultServices},
		Attest: Attest{Interval: conf.Duration(5 * time.Minute)},
		Outbox: Outbox{MaxMessages: 20000, MaxBytes: 16 << 20},
		Update: defaultUpdate(),
	}
}

// LoadSettings reads agent.toml strictly and checks it.
func LoadSettings(path string) (Settings, error) {
	s := DefaultSettings()
	if err := conf.Load(path, &s); err != nil {
		return Settings{}, err
	}
	if err := s.check(); err != nil {
		return Settings{}, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func (s *Settings) check() (err error) {
	if s.Identity.CA, err = parsePin(s.Identity.CA); err != nil {
		return err
	}
	for key, path := range map[string]string{"state": s.State, "trust": s.Trust, "socket": s.Socket, "helper": s.Helper, "health.services": s.Health.Services} {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("`%s` must be an absolute path, it is %q", key, path)
		}
	}
	switch {
	case s.TPM == "":
		return errors.New("`tpm` is empty: name the device, such as /dev/tpmrm0")
	case time.Duration(s.Health.Interval) < time.Second:
		return errors.New("`health.interval` must be at least 1s")
	case time.Duration(s.Attest.Interval) < time.Second:
		return errors.New("`attest.interval` must be at least 1s")
	case s.Outbox.MaxMessages < 100 || s.Outbox.MaxBytes < 1<<20:
		return errors.New("`outbox` must hold at least 100 messages and 1048576 bytes")
	}
	return s.Update.check()
}

// hostname is what the device calls itself, "" if it has no name.
func (s *Settings) hostname() string {
	if s.Identity.Hostname != "" {
		return s.Identity.Hostname
	}
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}

// model is what the device calls its hardware.
func (s *Settings) model() string {
	if s.Identity.Model != "" {
		return s.Identity.Model
	}
	var parts []string
	for _, name := range []string{"sys_vendor", "product_name"} {
		if raw, err := os.ReadFile(filepath.Join("/sys/class/dmi/id", name)); err == nil {
			parts = append(parts, strings.TrimSpace(string(raw)))
		}
	}
	if name := strings.TrimSpace(strings.Join(parts, " ")); name != "" {
		return name
	}
	return "unknown"
}
