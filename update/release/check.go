package release

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

const (
	lower = "abcdefghijklmnopqrstuvwxyz"
	digit = "0123456789"
)

func (r *Release) check() error {
	if r.Format != formatVersion {
		return fmt.Errorf("v is %d, this software reads %d", r.Format, formatVersion)
	}
	for _, step := range []func() error{r.checkWho, r.checkImages, r.Confirm.check, r.checkPolicies, r.checkRest} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// checkWho checks what the release is and for whom.
func (r *Release) checkWho() error {
	if err := errors.Join(word("product", r.Product), word("channel", r.Channel)); err != nil {
		return err
	}
	version, err := ParseVersion(r.Version)
	if err != nil {
		return fmt.Errorf("version: %w", err)
	}
	if r.MinSource != "" {
		source, err := ParseVersion(r.MinSource)
		if err != nil {
			return fmt.Errorf("min_source_version: %w", err)
		}
		if source.Compare(version) > 0 {
			return fmt.Errorf("min_source_version %s is above version %s: no device could install it", r.MinSource, r.Version)
		}
	}
	if r.Epoch < 1 || r.Epoch > MaxEpoch {
		return fmt.Errorf("epoch is %d, it must be from 1 to %d", r.Epoch, MaxEpoch)
	}
	if len(r.Hardware) == 0 || len(r.Hardware) > MaxModels {
		return fmt.Errorf("hardware names %d models, it must name 1 to %d", len(r.Hardware), MaxModels)
	}
	for i, model := range r.Hardware {
		if model == "" || len(model) > MaxModel || strings.TrimSpace(model) != model || strings.ContainsFunc(model, unicode.IsControl) {
			return fmt.Errorf("hardware[%d] is no model name", i)
		}
		if slices.Contains(r.Hardware[:i], model) {
			return fmt.Errorf("hardware names %q twice", model)
		}
	}
	return nil
}

func (r *Release) checkImages() error {
	if len(r.Images) == 0 || len(r.Images) > MaxImages {
		return fmt.Errorf("images holds %d, it must hold 1 to %d", len(r.Images), MaxImages)
	}
	slots := make(map[string]string) // by kind, those that its images are for
	for i, image := range r.Images {
		at := fmt.Sprintf("images[%d]", i)
		if err := errors.Join(word(at+".slot", image.Slot), targetPath(at+".name", image.Name), targetPath(at+".index", image.Index)); err != nil {
			return err
		}
		switch {
		case image.For != "" && image.For != "a" && image.For != "b":
			return fmt.Errorf("%s.for is %.70q, it must be a, b or absent", at, image.For)
		case image.Size < 1 || image.Size > MaxImageSize:
			return fmt.Errorf("%s.size is %d, it must be from 1 to %d bytes", at, image.Size, int64(MaxImageSize))
		case image.SHA256 == Digest{}:
			return fmt.Errorf("%s.sha256 is missing", at)
		case !strings.HasSuffix(image.Index, ".caibx"):
			return fmt.Errorf("%s.index does not end in .caibx", at)
		}
		slots[image.Slot] += cmp.Or(image.For, "any")
	}
	// With an image for one slot only, every second device could not install it.
	for kind, of := range slots {
		if of != "any" && of != "ab" && of != "ba" {
			return fmt.Errorf("images of kind %s: there must be one, or one for slot a and one for slot b", kind)
		}
	}
	return nil
}

func (c *Confirm) check() error {
	if c.Timeout < 1 || c.Timeout > MaxTimeout {
		return fmt.Errorf("confirm.timeout_seconds is %d, it must be from 1 to %d", c.Timeout, MaxTimeout)
	}
	if len(c.Checks) > MaxCriteria {
		return fmt.Errorf("confirm.checks holds %d, at most %d are allowed", len(c.Checks), MaxCriteria)
	}
	seen := make(map[string]bool)
	for i, criterion := range c.Checks {
		at := fmt.Sprintf("confirm.checks[%d]", i)
		if err := word(at+".check", criterion.Check); err != nil {
			return err
		}
		if criterion.Within < 1 || criterion.Within > c.Timeout {
			return fmt.Errorf("%s.within_seconds is %d, it must be from 1 to timeout_seconds (%d)", at, criterion.Within, c.Timeout)
		}
		if seen[criterion.Check] {
			return fmt.Errorf("%s: check %s is listed already", at, criterion.Check)
		}
		seen[criterion.Check] = true
	}
	return nil
}

func (r *Release) checkPolicies() error {
	if len(r.PCRPolicies) > MaxPolicies {
		return fmt.Errorf("pcr_policies holds %d, at most %d are allowed", len(r.PCRPolicies), MaxPolicies)
	}
	epochs := make(map[uint64]bool)
	for i, policy := range r.PCRPolicies {
		if err := policy.check(r.Epoch); err != nil {
			return fmt.Errorf("pcr_policies[%d]: %w", i, err)
		}
		epochs[policy.Epoch] = true
	}
	// A device whose secrets were sealed at an older epoch must open them, too.
	if len(epochs) > 0 && uint64(len(epochs)) != r.Epoch {
		return fmt.Errorf("pcr_policies cover %d of the epochs 1 to %d: what was sealed at the others would be lost", len(epochs), r.Epoch)
	}
	return nil
}

// check: PCR 11 alone proves nothing, since any EFI program can extend published
// values, so that 12 and 13 must be there as well (design, section 7).
func (p *PCRPolicy) check(newest uint64) error {
	switch {
	case p.Epoch < 1 || p.Epoch > newest:
		return fmt.Errorf("epoch is %d, it must be from 1 to %d", p.Epoch, newest)
	case p.Key == Digest{} || p.Policy == Digest{}:
		return errors.New("key or policy is missing")
	case p.Until != "" && p.Until != "ready":
		return fmt.Errorf("until is %.40q, it must be ready or absent", p.Until)
	case p.Until == "ready" && slices.Contains(strings.Split(p.Phases, ":"), "ready"):
		return fmt.Errorf("phases %s go beyond until: ready", p.Phases)
	case len(p.Signature) == 0 || len(p.Signature) > MaxPolicySig:
		return fmt.Errorf("signature has %d bytes, it must have 1 to %d", len(p.Signature), MaxPolicySig)
	}
	for i, pcr := range p.PCRs {
		if pcr < 0 || pcr > lastPCR || i > 0 && pcr <= p.PCRs[i-1] {
			return fmt.Errorf("pcrs %v are not ascending numbers from 0 to %d", p.PCRs, lastPCR)
		}
	}
	for _, must := range []int{11, 12, 13} {
		if !slices.Contains(p.PCRs, must) {
			return fmt.Errorf("pcrs %v lack %d: 11, 12 and 13 are the least", p.PCRs, must)
		}
	}
	return phases(p.Phases)
}

// phases checks a path of boot phases. A secret that opened while the machine
// shuts down would open for whatever runs then.
func phases(path string) error {
	if len(path) > MaxPhases {
		return fmt.Errorf("phases has %d bytes, at most %d are allowed", len(path), MaxPhases)
	}
	for _, phase := range strings.Split(path, ":") {
		switch phase {
		case "enter-initrd", "leave-initrd", "sysinit", "ready":
		case "shutdown", "final":
			return fmt.Errorf("phases: nothing may open in %s", phase)
		default:
			return fmt.Errorf("phases: %.40q is no boot phase", phase)
		}
	}
	return nil
}

func (r *Release) checkRest() error {
	switch reference := bytes.TrimSpace(r.Reference); {
	case len(reference) > MaxReference:
		return fmt.Errorf("reference has %d bytes, at most %d are allowed", len(reference), MaxReference)
	case len(reference) > 0 && reference[0] != '{' && reference[0] != '[':
		return errors.New("reference is neither an object nor a list")
	case len(r.Notes) > MaxNotes:
		return fmt.Errorf("notes has %d bytes, at most %d are allowed", len(r.Notes), MaxNotes)
	}
	return nil
}

// word accepts a name that is safe in a file name, a topic and a policyRef.
func word(key, s string) error {
	if s == "" || len(s) > MaxWord || strings.Trim(s, lower+digit+"-") != "" || !strings.Contains(lower+digit, s[:1]) {
		return fmt.Errorf("%s is %.70q, it must be a name of up to %d of a-z, 0-9 and -", key, s, MaxWord)
	}
	return nil
}

// targetPath accepts the path of a TUF target: relative, and without a part that
// a file system or a shell would read as anything but a name.
func targetPath(key, s string) error {
	bad := fmt.Errorf("%s is %.70q, it must be a relative path of a-z, A-Z, 0-9, dot, hyphen and underscore", key, s)
	if s == "" || len(s) > MaxPath {
		return bad
	}
	for _, part := range strings.Split(s, "/") {
		if part == "" || part[0] == '.' || part[0] == '-' || strings.Trim(part, lower+strings.ToUpper(lower)+digit+"._-") != "" {
			return bad
		}
	}
	return nil
}
