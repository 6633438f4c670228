package health

import (
	"errors"
	"time"
)

// Deps is what checks need to know.
type Deps struct {
	StateFolder string                                             // whose disk is watched
	EFIVars     string                                             // where efivarfs is mounted: DefaultEFIVars
	Services    string                                             // where programs say how they do: DefaultServices
	Certificate func() (notBefore, notAfter time.Time, found bool) // of the certificate in use
	Now         func() time.Time

	SoftwareKeys bool // there is no TPM
}

// DefaultEFIVars is where Linux distributions mount efivarfs.
const DefaultEFIVars = "/sys/firmware/efi/efivars"

// All lists every health check. A new one is a file and a line.
func All(d Deps) ([]Check, error) {
	if d.StateFolder == "" || d.EFIVars == "" || d.Services == "" || d.Certificate == nil || d.Now == nil {
		return nil, errors.New("health: incomplete dependencies")
	}
	checks := []Check{
		certificate(d.Certificate, d.Now),
		disk(d.StateFolder),
		secureBoot(d.EFIVars),
		services(d.Services),
		timeSync(),
		units(),
	}
	if d.SoftwareKeys {
		checks = append(checks, softwareKeys())
	}
	return checks, nil
}
