// Package policy reads the signed policy documents that a device obeys and
// decides what they allow. Bytes in, decision out: it opens no file and asks no
// clock.
//
// A document that could be read in two ways, names what it doesn't define or
// promises less than it seems to (one person under two names, a threshold that
// nobody can reach) is refused whole.
package policy

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// FleetFile and OperatorsFile are the names of the documents in a trust folder.
const (
	FleetFile     = "fleet.json"
	OperatorsFile = "operators.json"
)

// Fleet is trust/fleet.json: which fleet this device belongs to and how to know it.
type Fleet struct {
	Version     int       `json:"v"` // 1
	Issued      time.Time `json:"issued"`
	Fleet       string    `json:"fleet"`        // id: 1 to 63 of [a-z0-9.-]
	API         []string  `json:"api"`          // https://host:port
	Broker      []string  `json:"broker"`       // mqtts://host:port
	Anchors     []string  `json:"anchors"`      // PEM, one CA certificate each; none: agent.toml pins one
	MessageKeys [][]byte  `json:"message_keys"` // ed25519 public keys of the fleet's messages
}

// ParseFleet reads trust/fleet.json.
func ParseFleet(data []byte) (*Fleet, error) {
	if len(data) > MaxDocument {
		return nil, fmt.Errorf("read fleet document: longer than %d bytes", MaxDocument)
	}
	var f Fleet
	if err := strictjson.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("read fleet document: %w", err)
	}
	if err := f.check(); err != nil {
		return nil, fmt.Errorf("check fleet document: %w", err)
	}
	return &f, nil
}

func (f *Fleet) check() error {
	if err := checkHead(f.Version, f.Issued, f.Fleet); err != nil {
		return err
	}
	if err := checkAddresses("api", "https", f.API); err != nil {
		return err
	}
	if err := checkAddresses("broker", "mqtts", f.Broker); err != nil {
		return err
	}
	if n := len(f.Anchors); n > maxAnchors {
		return fmt.Errorf("%d anchors, not 0 to %d", n, maxAnchors)
	}
	for i, text := range f.Anchors {
		if err := checkAnchor(text); err != nil {
			return fmt.Errorf("anchor %d: %w", i+1, err)
		}
	}
	if n := len(f.MessageKeys); n == 0 || n > maxMessageKeys {
		return fmt.Errorf("%d message keys, not 1 to %d", n, maxMessageKeys)
	}
	for i, key := range f.MessageKeys {
		if len(key) != ed25519.PublicKeySize {
			return fmt.Errorf("message key %d is %d bytes long, not %d", i+1, len(key), ed25519.PublicKeySize)
		}
	}
	return nil
}

// checkHead checks what all documents begin with.
func checkHead(version int, issued time.Time, fleet string) error {
	switch {
	case version != 1:
		return fmt.Errorf("version is %d, not 1: a higher one is for a newer release than this", version)
	case issued.IsZero():
		return errors.New("issued is missing")
	case !validFleet(fleet):
		return fmt.Errorf("fleet %.80q is not 1 to 63 of a-z, 0-9, dot and dash, beginning with a letter or digit", fleet)
	}
	return nil
}

func validFleet(s string) bool { return matches(`^[a-z0-9][a-z0-9.-]{0,62}$`, s) }

// matches compiles as it goes: documents are read once and commands are rare.
func matches(pattern, s string) bool {
	ok, err := regexp.MatchString(pattern, s)
	return ok && err == nil
}

func checkAddresses(what, scheme string, list []string) error {
	if n := len(list); n == 0 || n > maxAddresses {
		return fmt.Errorf("%d addresses in %s, not 1 to %d", n, what, maxAddresses)
	}
	for i, text := range list {
		if !validAddress(scheme, text) {
			return fmt.Errorf("address %.100q in %s is not of the form %s://host:port", text, what, scheme)
		}
		if slices.Contains(list[:i], text) {
			return fmt.Errorf("address %.100q is in %s twice", text, what)
		}
	}
	return nil
}

func validAddress(scheme, text string) bool {
	u, err := url.Parse(text)
	if err != nil || len(text) > wire.MaxText || u.Scheme != scheme || text != scheme+"://"+u.Host {
		return false
	}
	host, port, err := net.SplitHostPort(u.Host)
	if err != nil || host == "" {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

func checkAnchor(text string) error {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" || len(rest) != 0 || len(block.Bytes) > wire.MaxCertificate {
		return errors.New("it is not exactly one PEM certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fmt.Errorf("parse certificate: %w", err)
	}
	if !cert.IsCA || !cert.BasicConstraintsValid {
		return fmt.Errorf("certificate of %q is not a CA's", cert.Subject.CommonName)
	}
	return nil
}
