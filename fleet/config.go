package fleet

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gatewarden/gatewarden/internal/conf"
)

// Settings is fleet.toml. DefaultSettings fills in all but Fleet and Public.
type Settings struct {
	Fleet   string `toml:"fleet"`    // name of the fleet; part of every device id, never changed
	State   string `toml:"state"`    // folder of database, keys and certificates
	Updates string `toml:"updates"`  // folder of the published update repository, served to devices; by default updates in State
	Policy  string `toml:"policy"`   // attestation policy (docs/policy.md); by default policy.json in State
	EKRoots string `toml:"ek_roots"` // folder of PEM files with the certificates of TPM makers

	// CAPassphrase is a file with the passphrase of the CA's keys. Empty: the systemd
	// credential ca-passphrase; without that the keys are in the clear.
	CAPassphrase string `toml:"ca_passphrase"`

	Listen       Listen       `toml:"listen"`
	Public       Public       `toml:"public"`
	Broker       Broker       `toml:"broker"`
	Certificates Certificates `toml:"certificates"`
	Enroll       Enroll       `toml:"enroll"`
	Gate         Gate         `toml:"gate"`
}

// Listen is where the server listens.
type Listen struct {
	API       string `toml:"api"`       // device API, TLS
	MQTT      string `toml:"mqtt"`      // embedded broker, TLS; not with an external one
	Dashboard string `toml:"dashboard"` // loopback only
	Operator  string `toml:"operator"`  // Unix socket
}

// Public is where devices find the server: it goes into trust/fleet.json.
type Public struct {
	API  []string `toml:"api"`  // https://host:port
	MQTT []string `toml:"mqtt"` // mqtts://host:port
}

// Certificates are the lives of what the CA issues to devices.
type Certificates struct {
	Full       conf.Duration `toml:"full"`
	Short      conf.Duration `toml:"short"`
	Quarantine conf.Duration `toml:"quarantine"`
}

// Gate says when the gate stops, because too many gateways fall at once.
type Gate struct {
	Brake int `toml:"brake"` // percent of a hardware model within an hour; 0: never
}

// Enroll says how admission works.
type Enroll struct {
	Retry conf.Duration `toml:"retry"` // what a waiting device is told to wait
}

// DefaultSettings are the values of all keys that a fleet.toml leaves out.
func DefaultSettings() Settings {
	return Settings{
		State: "/var/lib/gatewarden-fleet",
		Listen: Listen{
			API: ":8443", MQTT: ":8883", Dashboard: "127.0.0.1:8080", Operator: "/run/gatewarden-fleet/operator.sock",
		},
		Certificates: Certificates{Full: conf.Duration(week), Short: conf.Duration(day), Quarantine: conf.Duration(day)},
		Enroll:       Enroll{Retry: conf.Duration(halfMinute)},
		Gate:         Gate{Brake: 25},
	}
}

// LoadSettings reads fleet.toml strictly and checks it.
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

func (s *Settings) check() error {
	switch {
	case s.Fleet == "" || s.Fleet[0] == '-' || len(s.Fleet) > 63 || strings.Trim(s.Fleet, "abcdefghijklmnopqrstuvwxyz0123456789-") != "":
		return errors.New("`fleet` must be a name of up to 63 of a-z, 0-9 and -, not beginning with -")
	case !filepath.IsAbs(s.State):
		return errors.New("`state` must be an absolute path")
	case len(s.Public.API) == 0 || len(s.Public.MQTT) == 0:
		return errors.New("`public.api` and `public.mqtt` must name at least one address each, under which devices find this server")
	case s.Certificates.Full <= 0 || s.Certificates.Short <= 0 || s.Certificates.Quarantine <= 0 || s.Enroll.Retry <= 0:
		return errors.New("lives of certificates and `enroll.retry` must be longer than nothing")
	}
	if s.Gate.Brake < 0 || s.Gate.Brake > 100 {
		return errors.New("`gate.brake` is a share in percent, from 0 to 100")
	}
	if err := errors.Join(checkAddresses("public.api", "https", s.Public.API), checkAddresses("public.mqtt", "mqtts", s.Public.MQTT), s.Broker.check()); err != nil {
		return err
	}
	if s.Updates == "" {
		s.Updates = filepath.Join(s.State, "updates")
	}
	if s.Policy == "" {
		s.Policy = filepath.Join(s.State, "policy.json")
	}
	return nil
}

func checkAddresses(key, scheme string, addresses []string) error {
	for _, address := range addresses {
		u, err := url.Parse(address)
		if err != nil || u.Hostname() == "" || u.Port() == "" || address != scheme+"://"+u.Host {
			return fmt.Errorf("`%s` address %q is not of the form %s://host:port", key, address, scheme)
		}
	}
	return nil
}

// hosts are the names that the server's certificate must carry: a broker beside it
// has a certificate of its own.
func (s *Settings) hosts() []string {
	seen := map[string]bool{}
	addresses := slices.Clone(s.Public.API)
	if !s.Broker.external() {
		addresses = append(addresses, s.Public.MQTT...)
	}
	var hosts []string
	for _, address := range addresses {
		if u, err := url.Parse(address); err == nil && !seen[u.Hostname()] {
			seen[u.Hostname()] = true
			hosts = append(hosts, u.Hostname())
		}
	}
	return hosts
}
