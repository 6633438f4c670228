package release

import (
	"fmt"
	"slices"
)

// Device is what the installer knows of the machine by itself: never what a
// message claims.
type Device struct {
	Product  string
	Channel  string
	Hardware string
	Version  string // that runs
	Epoch    uint64 // security epoch that it reached
}

// Refusal says why a device must not install a release.
type Refusal struct {
	Rule string // constant word: product, channel, hardware, epoch, version, source, installed
	Text string // a sentence
}

func (r *Refusal) Error() string { return "release refused (" + r.Rule + "): " + r.Text }

// Applies returns nil if d may install r, else a *Refusal. Rule "installed" says
// that r already runs: no fault, but nothing to do.
//
// There is no way back but a new release: one with a higher version over the old
// image, signed at the epoch of today.
func (r *Release) Applies(d Device) error {
	switch {
	case r.Product != d.Product:
		return refuse("product", "it is for product %s, this is a %s", r.Product, d.Product)
	case r.Channel != d.Channel:
		return refuse("channel", "it is for channel %s, this device follows %s", r.Channel, d.Channel)
	case !slices.Contains(r.Hardware, d.Hardware):
		return refuse("hardware", "it is not for hardware model %q", d.Hardware)
	case r.Epoch < d.Epoch:
		return refuse("epoch", "its security epoch is %d, this device has reached %d", r.Epoch, d.Epoch)
	}
	offered, err := ParseVersion(r.Version)
	if err != nil {
		return refuse("version", "%v", err)
	}
	running, err := ParseVersion(d.Version)
	if err != nil {
		return refuse("version", "the running version is unreadable: %v", err)
	}
	switch c := offered.Compare(running); {
	case c == 0:
		return refuse("installed", "version %s is running", r.Version)
	case c < 0:
		return refuse("version", "version %s is below the running %s", r.Version, d.Version)
	}
	if r.MinSource == "" {
		return nil
	}
	source, err := ParseVersion(r.MinSource)
	if err != nil {
		return refuse("source", "%v", err)
	}
	if running.Compare(source) < 0 {
		return refuse("source", "it can be installed from version %s on, %s is running: install an intermediate release first", r.MinSource, d.Version)
	}
	return nil
}

func refuse(rule, format string, args ...any) error {
	return &Refusal{Rule: rule, Text: fmt.Sprintf(format, args...)}
}

var _ error = (*Refusal)(nil)
