package attest

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Policy says what a trusted boot of a fleet's gateways looks like. It is
// authored as a struct and encoded as JSON; only what ParsePolicy returned is
// accepted by Verify.
type Policy struct {
	Version    int                 `json:"v"` // 1
	Issued     time.Time           `json:"issued"`
	Fleet      string              `json:"fleet"`
	Releases   []Release           `json:"releases"`
	Firmware   []ModelFirmware     `json:"firmware,omitempty"` // good beside what operators approved
	Keys       []KeyReference      `json:"keys,omitempty"`     // Secure Boot keys; none: whatever the firmware holds
	IMA        *IMAPolicy          `json:"ima,omitempty"`      // files that may run; absent: IMA lists are replayed only
	Rules      map[string]Severity `json:"rules,omitempty"`    // by rule name, where the default does not suit
	Exceptions []Exception         `json:"exceptions,omitempty"`

	releases []release     // compiled; nil unless ParsePolicy made it
	files    *imaReference // IMA, compiled; nil before ReadLists
	digest   Digest        // of the document
}

// ID names the document that ParsePolicy read: "sha256:" and the hash (hex) of its bytes.
func (p *Policy) ID() string { return fmt.Sprintf("sha256:%x", p.digest) }

// Release is what one release of a product measures when it boots. One that boots
// otherwise in each slot is two of them, so that what was measured must be one or the
// other as a whole.
type Release struct {
	Product          string            `json:"product"`
	Version          string            `json:"version"`
	For              string            `json:"for,omitempty"`          // the slot, "a" or "b", that boots so; absent: both
	BootApplications []Digest          `json:"boot_applications"`      // Authenticode SHA-256 of boot loader, UKI and the kernel in it: PCR 4
	CommandLines     []string          `json:"command_lines"`          // whole kernel command lines: PCR 12, or 8 (GRUB)
	UKISections      map[string]Digest `json:"uki_sections,omitempty"` // section name, such as ".linux", to SHA-256 of its contents: PCR 11
	GRUB             *GRUBReference    `json:"grub,omitempty"`         // what GRUB may run and read; needed where there is no UKI
	Phases           [][]string        `json:"phases,omitempty"`       // boot-phase paths; a boot is somewhere on one. Default: all words, with and without those of an initrd
}

// Name is how operators know a release.
func (r *Release) Name() string { return r.Product + " " + r.Version }

// full is the name with the slot, where that matters.
func (r *Release) full() string {
	if r.For == "" {
		return r.Name()
	}
	return r.Name() + " for slot " + r.For
}

// Severity is what a rule costs that did not hold.
type Severity string

// Severities from worst to harmless.
const (
	Distrust Severity = "distrust"
	Degrade  Severity = "degrade"
	Info     Severity = "info"
)

func (s Severity) grade() Grade {
	switch s {
	case Distrust:
		return Untrusted
	case Degrade:
		return Degraded
	}
	return Trusted
}

// Exception lets one rule fail without cost, for a time and a reason.
type Exception struct {
	Rule    string    `json:"rule"`
	Reason  string    `json:"reason"`
	Expires time.Time `json:"expires"`
	Device  string    `json:"device,omitempty"` // all devices if absent
}

// release is a Release with what Verify looks up.
type release struct {
	*Release
	applications map[Digest]bool
	commandLines map[Digest]string // by each digest by which a loader or kernel measures it
	commands     map[Digest]bool   // of GRUB
	files        map[Digest]bool   // of GRUB
	phases       [][]string
}

// ParsePolicy decodes and checks a policy document: one JSON object in the form
// of Policy, at most 1 MiB. Everything that it does not define is refused: an
// unknown key, rule, severity, boot-phase word or UKI section.
func ParsePolicy(data []byte) (*Policy, error) {
	if len(data) > maxPolicy {
		return nil, fmt.Errorf("parse attestation policy: %d bytes, at most %d are allowed", len(data), maxPolicy)
	}
	var p Policy
	if err := decodeStrict(data, &p); err != nil {
		return nil, fmt.Errorf("parse attestation policy: %w", err)
	}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("parse attestation policy: %w", err)
	}
	p.digest = sha256.Sum256(data)
	return &p, nil
}

func (p *Policy) check() error {
	switch {
	case p.Version != 1:
		return fmt.Errorf("version %d, not 1", p.Version)
	case p.Issued.IsZero():
		return fmt.Errorf("issued is missing")
	case p.Fleet == "":
		return fmt.Errorf("fleet is missing")
	}
	slots := make(map[string][]string) // by name
	compiled := make([]release, 0, len(p.Releases))
	for i := range p.Releases {
		r := &p.Releases[i]
		if slices.ContainsFunc(slots[r.Name()], func(other string) bool { return other == r.For || other == "" || r.For == "" }) {
			return fmt.Errorf("release %q occurs twice", r.full())
		}
		slots[r.Name()] = append(slots[r.Name()], r.For)
		c, err := compileRelease(r)
		if err != nil {
			return fmt.Errorf("release %q: %w", r.full(), err)
		}
		compiled = append(compiled, c)
	}
	if err := p.checkRules(); err != nil {
		return err
	}
	if err := p.checkSets(); err != nil {
		return err
	}
	if err := p.IMA.check(); err != nil {
		return err
	}
	p.releases = compiled
	return nil
}

func (p *Policy) checkRules() error {
	for name, severity := range p.Rules {
		if severity != Distrust && severity != Degrade && severity != Info {
			return fmt.Errorf("rule %q: severity %q is not distrust, degrade or info", name, severity)
		}
		if err := adjustable(name); err != nil {
			return err
		}
		if name == ruleSoftwareKeys && severity == Info {
			return fmt.Errorf("rule %q: it degrades or distrusts; without a TPM nothing is proven, so nothing is trusted", name)
		}
	}
	for i, e := range p.Exceptions {
		if err := adjustable(e.Rule); err != nil {
			return fmt.Errorf("exception %d: %w", i, err)
		}
		if e.Rule == ruleSoftwareKeys {
			return fmt.Errorf("exception %d: rule %q has none; the policy's rules say whether it degrades", i, e.Rule)
		}
		if e.Reason == "" || e.Expires.IsZero() {
			return fmt.Errorf("exception %d: it needs a reason and an expiry", i)
		}
	}
	return nil
}

// adjustable refuses names that are no rule's, and the rule on which all the
// others rest.
func adjustable(name string) error {
	if name == rulePCRReplay {
		return fmt.Errorf("rule %q always distrusts: without it no other rule means anything", name)
	}
	if !slices.Contains(RuleNames(), name) {
		return fmt.Errorf("there is no rule %q; the rules are %s", name, strings.Join(RuleNames(), ", "))
	}
	return nil
}

func compileRelease(r *Release) (release, error) {
	c := release{Release: r, applications: make(map[Digest]bool), commandLines: make(map[Digest]string), phases: r.Phases}
	if r.Product == "" || r.Version == "" {
		return c, fmt.Errorf("product and version are needed")
	}
	if r.For != "" && r.For != "a" && r.For != "b" {
		return c, fmt.Errorf("for is %.70q, it must be a, b or absent", r.For)
	}
	if len(r.BootApplications) == 0 || len(r.CommandLines) == 0 || len(r.UKISections) == 0 && r.GRUB == nil {
		return c, fmt.Errorf("boot_applications, command_lines and one of uki_sections and grub must not be empty")
	}
	for _, d := range r.BootApplications {
		if d.IsZero() {
			return c, fmt.Errorf("a boot application without digest")
		}
		c.applications[d] = true
	}
	for _, line := range r.CommandLines {
		c.commandLines[CommandLineDigest(line)] = line
		for _, digest := range grubDigests(line) {
			c.commandLines[digest] = line
		}
	}
	if err := c.compileGRUB(); err != nil {
		return c, err
	}
	for name, d := range r.UKISections {
		if !slices.Contains(sectionOrder(), name) {
			return c, fmt.Errorf("%q is not a measured UKI section", name)
		}
		if d.IsZero() {
			return c, fmt.Errorf("section %s without digest", name)
		}
	}
	for _, path := range r.Phases {
		if err := checkPhases(path); err != nil {
			return c, err
		}
	}
	if len(c.phases) == 0 {
		c.phases = defaultPhases()
	}
	return c, nil
}
