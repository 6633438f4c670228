package policy

import (
	"bytes"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/internal/sshsig"
	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// Rules that refuse a command.
const (
	RuleUnsigned      = "unsigned"        // it has no signature
	RuleSignature     = "signature"       // a signature doesn't hold
	RuleFormat        = "format"          // it can't be read in exactly one way, or exceeds a limit
	RuleFleet         = "fleet"           // it is for another fleet
	RuleDevice        = "device"          // it is for other devices
	RuleRole          = "role"            // its signers may not use the verb
	RuleThreshold     = "threshold"       // too few different people signed
	RuleExpired       = "expired"         // its time has passed
	RuleNotYet        = "not-yet"         // its time has not come
	RuleNoTrustedTime = "no-trusted-time" // nobody can tell, and it lacks the device's challenge
)

// Refusal says which rule refused a command, and why in a sentence. ID and Verb
// are set once the signatures held and the command could be read: for the record,
// not to act on.
type Refusal struct {
	Rule, Text string
	ID, Verb   string
}

func (r *Refusal) Error() string { return r.Text }

func refuse(rule, format string, args ...any) *Refusal {
	return &Refusal{Rule: rule, Text: fmt.Sprintf(format, args...)}
}

// Request is a command that arrived at a device, and what that device knows.
type Request struct {
	Envelope      wire.Envelope
	Fleet, Device string
	Now           time.Time // never below the device's time floor
	TimeTrusted   bool      // Now may be believed
	Challenge     []byte    // the device's current one; nil if it has none
}

// Authorize decides whether the command in r may run on this device. It returns
// the command and the names of those who together authorised it, sorted, or a
// *Refusal. It verifies before it parses. That a command runs only once is for
// a ledger to see to.
func (o *Operators) Authorize(r Request) (wire.Command, []string, error) {
	signers, refusal := o.signers(r.Envelope)
	if refusal != nil {
		return wire.Command{}, nil, refusal
	}
	c, refusal := parseCommand(r.Envelope.Command)
	if refusal != nil {
		return wire.Command{}, nil, refusal
	}
	people, refusal := o.decide(r, c, signers)
	if refusal != nil {
		refusal.ID, refusal.Verb = c.ID, c.Verb
		return wire.Command{}, nil, refusal
	}
	return c, people, nil
}

func (o *Operators) decide(r Request, c wire.Command, signers []string) ([]string, *Refusal) {
	if c.Fleet != r.Fleet || c.Fleet != o.Fleet || r.Fleet == "" {
		return nil, refuse(RuleFleet, "The command is for fleet %q; this device belongs to %q.", c.Fleet, r.Fleet)
	}
	if !slices.Contains(c.Devices, r.Device) {
		return nil, refuse(RuleDevice, "The command is for %s, not for this device, %s.", some(c.Devices), r.Device)
	}
	people, refusal := o.granted(c.Verb, signers)
	if refusal != nil {
		return nil, refusal
	}
	return people, checkTime(r, c)
}

// signers returns the people whose signatures the envelope carries. Each
// signature has to hold and be an operator's.
func (o *Operators) signers(e wire.Envelope) ([]string, *Refusal) {
	if len(e.Signatures) == 0 {
		return nil, refuse(RuleUnsigned, "The command carries no signature; sign it with ssh-keygen -Y sign -n %s.", wire.CommandNamespace)
	}
	if len(e.Command) > wire.MaxCommand || len(e.Signatures) > wire.MaxSignatures {
		return nil, refuse(RuleFormat, "The command is longer than %d bytes or has more than %d signatures.", wire.MaxCommand, wire.MaxSignatures)
	}
	var people []string
	for i, armored := range e.Signatures {
		key, err := sshsig.Verify([]byte(armored), e.Command, wire.CommandNamespace)
		if err != nil {
			return nil, refuse(RuleSignature, "Signature %d does not hold: %v.", i+1, err)
		}
		name, known := o.holders[key.String()]
		if !known {
			return nil, refuse(RuleRole, "Signature %d is by key %s, which is no operator's of this fleet.", i+1, key.Fingerprint())
		}
		if !slices.Contains(people, name) {
			people = append(people, name)
		}
	}
	slices.Sort(people)
	return people, nil
}

// granted counts people, not keys.
func (o *Operators) granted(verb string, signers []string) ([]string, *Refusal) {
	grant, ok := o.Verbs[verb]
	if !ok {
		return nil, refuse(RuleRole, "The fleet's policy lets nobody use the verb %q.", verb)
	}
	people := slices.DeleteFunc(slices.Clone(signers), func(name string) bool {
		return !slices.Contains(grant.People, name)
	})
	switch {
	case len(people) == 0:
		return nil, refuse(RuleRole, "%s may not use the verb %q.", some(signers), verb)
	case len(people) < grant.Threshold:
		return nil, refuse(RuleThreshold, "The verb %q takes %d people; only %s signed.", verb, grant.Threshold, some(people))
	}
	return people, nil
}

// checkTime: trustworthy time decides by the command's dates. Where there is none,
// the device's challenge proves the command fresh whatever the clock says; without
// it, a clock that can't be trusted may still refuse, never allow.
func checkTime(r Request, c wire.Command) *Refusal {
	answer := c.Challenge[r.Device]
	if !r.TimeTrusted && len(r.Challenge) > 0 && subtle.ConstantTimeCompare(answer, r.Challenge) == 1 {
		return nil
	}
	now := r.Now.UTC().Format(time.RFC3339)
	switch {
	case r.Now.After(c.Expires):
		return refuse(RuleExpired, "The command expired at %s; it is %s here.", c.Expires.UTC().Format(time.RFC3339), now)
	case r.Now.Before(c.NotBefore) && r.TimeTrusted:
		return refuse(RuleNotYet, "The command is valid from %s; it is %s here.", c.NotBefore.UTC().Format(time.RFC3339), now)
	case r.Now.Before(c.NotBefore):
		return refuse(RuleNotYet, "The command is valid from %s; it is %s here, by a clock that can't be trusted: sign it again with the device's current challenge.", c.NotBefore.UTC().Format(time.RFC3339), now)
	case !r.TimeTrusted:
		return refuse(RuleNoTrustedTime, "This device has no trustworthy time since it started; sign the command again with the device's current challenge.")
	}
	return nil
}

// parseCommand reads what operators signed.
func parseCommand(data []byte) (wire.Command, *Refusal) {
	var c wire.Command
	if err := strictjson.Unmarshal(data, &c); err != nil {
		return c, refuse(RuleFormat, "The command can't be read: %.200s.", err)
	}
	if fault := fault(c); fault != "" {
		return c, refuse(RuleFormat, "The command is malformed: %s.", fault)
	}
	return c, nil
}

func fault(c wire.Command) string {
	switch {
	case c.Version != 1:
		return "its version is not 1: a higher one is for a newer release than this"
	case !validFleet(c.Fleet):
		return "the fleet's id is not one"
	case !matches(`^[a-z0-9-]{16,64}$`, c.ID):
		return "the id is not 16 to 64 of a-z, 0-9 and dash"
	case !matches(`^[a-z][a-z0-9-]{0,31}$`, c.Verb):
		return "the verb is not 1 to 32 of a-z, 0-9 and dash"
	case len(c.Args) > 0 && !isObject(c.Args):
		return "args is not an object"
	case len(c.Devices) == 0 || len(c.Devices) > wire.MaxDevices:
		return fmt.Sprintf("it names %d devices, not 1 to %d", len(c.Devices), wire.MaxDevices)
	case c.NotBefore.IsZero() || !c.Expires.After(c.NotBefore) || c.Expires.Sub(c.NotBefore) > MaxLife:
		return fmt.Sprintf("it is not valid for a time between 0 and %d days", MaxLife/(24*time.Hour))
	case strings.TrimSpace(c.Reason) == "" || len(c.Reason) > wire.MaxText:
		return fmt.Sprintf("the reason is empty or longer than %d bytes", wire.MaxText)
	}
	return faultyDevice(c)
}

func faultyDevice(c wire.Command) string {
	seen := make(map[string]bool)
	for _, device := range c.Devices {
		_, quarantined, ok := wire.DeviceOf(device)
		if !ok || quarantined {
			return fmt.Sprintf("%.40q is no device id", device)
		}
		if seen[device] {
			return device + " is named twice"
		}
		seen[device] = true
	}
	for device, challenge := range c.Challenge {
		if !seen[device] || len(challenge) != wire.NonceSize {
			return fmt.Sprintf("the challenge of %.40q is not %d bytes or not of a named device", device, wire.NonceSize)
		}
	}
	return ""
}

func isObject(raw json.RawMessage) bool { return bytes.HasPrefix(bytes.TrimSpace(raw), []byte("{")) }

// some lists at most three names.
func some(names []string) string {
	if more := len(names) - 3; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), more)
	}
	return strings.Join(names, ", ")
}
