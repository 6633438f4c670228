package operator

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// Device is one line of the list.
type Device struct {
	ID         string    `json:"id"`
	State      string    `json:"state"`
	Grade      string    `json:"grade,omitempty"`
	Model      string    `json:"model"`
	Hostname   string    `json:"hostname,omitempty"`
	Software   string    `json:"software"`
	Keys       string    `json:"keys"` // tpm, software
	EKVerified bool      `json:"ek_verified"`
	Machine    string    `json:"machine,omitempty"` // that whose maker vouches for its TPM
	LastSeen   time.Time `json:"last_seen"`
	Created    time.Time `json:"created"`
}

// Detail is all that one page needs.
type Detail struct {
	Device
	Verdict      *Verdict        `json:"verdict,omitempty"`
	Certificates []Certificate   `json:"certificates"`
	Commands     []Command       `json:"commands"`
	Health       json.RawMessage `json:"health,omitempty"` // wire.Health
}

// Verdict is the last appraisal.
type Verdict struct {
	At          time.Time `json:"at"`
	Grade       string    `json:"grade"`
	Gate        string    `json:"gate"`
	Explanation []string  `json:"explanation"`
}

// Certificate is one that was issued to the device.
type Certificate struct {
	Serial    string    `json:"serial"`
	Identity  string    `json:"identity"`
	Profile   string    `json:"profile"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Revoked   string    `json:"revoked,omitempty"` // why
}

// Command is an envelope that was sent, with what became of it.
type Command struct {
	Envelope string    `json:"envelope"` // EnvelopeHash
	ID       string    `json:"id,omitempty"`
	Verb     string    `json:"verb"`
	Created  time.Time `json:"created"`
	Pending  bool      `json:"pending"`
	Receipts []Receipt `json:"receipts,omitempty"`
}

// Receipt is a device's answer whose signature was verified.
type Receipt struct {
	Outcome string          `json:"outcome"`
	Rule    string          `json:"rule,omitempty"`
	Text    string          `json:"text"`
	At      time.Time       `json:"at"`
	Signed  json.RawMessage `json:"signed"` // wire.Receipt
}

// EnvelopeHash names an envelope: SHA-256 (hex) of its command bytes.
func EnvelopeHash(e wire.Envelope) string {
	sum := sha256.Sum256(e.Command)
	return hex.EncodeToString(sum[:])
}

func deviceOf(d registry.Device) Device {
	keys := registry.KeysTPM
	if d.SoftwareKeys {
		keys = registry.KeysSoftware
	}
	return Device{
		Keys: keys,
		ID:   d.ID, State: d.State, Grade: d.Grade, Model: d.Model, Hostname: d.Hostname, Software: d.Software,
		EKVerified: d.EKVerified, Machine: d.Machine, LastSeen: d.LastSeen, Created: d.Created,
	}
}

func (a *api) certificates(ctx context.Context, id string) ([]Certificate, error) {
	records, err := a.Registry.Certificates(ctx, id)
	if err != nil {
		return nil, err
	}
	list := make([]Certificate, 0, len(records))
	for _, c := range records {
		list = append(list, Certificate{
			Serial: c.Serial, Identity: c.Identity, Profile: c.Profile, NotBefore: c.NotBefore, NotAfter: c.NotAfter, Revoked: c.Reason,
		})
	}
	return list, nil
}

func (a *api) commands(ctx context.Context, id string) ([]Command, error) {
	records, err := a.Registry.Commands(ctx, id, 50)
	if err != nil {
		return nil, err
	}
	list := make([]Command, 0, len(records))
	for _, c := range records {
		command := Command{Envelope: c.Hash, ID: c.ID, Verb: c.Verb, Created: c.Created, Pending: c.Pending}
		for _, r := range c.Receipts {
			command.Receipts = append(command.Receipts, Receipt{Outcome: r.Outcome, Rule: r.Rule, Text: r.Text, At: r.Received, Signed: r.Receipt})
		}
		list = append(list, command)
	}
	return list, nil
}
