// Package release says what a release target means: the custom metadata that the
// owner's update repository signs with an image.
//
// Its promise: a Release that Parse returned is complete and within limits, and
// Applies is the one place that decides whether a device may install it. Bytes
// and facts in, decision out: no file, no clock, no network.
package release

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/gatewarden/gatewarden/internal/strictjson"
)

// Release is the custom object of a TUF target (TUF 1.0, section 4.5). The target
// itself names the release; the images are named here.
type Release struct {
	Format  int    `json:"v"`       // 1
	Product string `json:"product"` // what the device is, a word
	Channel string `json:"channel"` // stable, beta, ...: a word
	Version string `json:"version"` // see Version
	// Epoch is the security epoch. A device that confirmed epoch N never installs
	// one below N again. From 1.
	Epoch     uint64    `json:"epoch"`
	Hardware  []string  `json:"hardware"`                     // models it runs on, as the device calls itself
	Images    []Image   `json:"images"`                       // of a kind one, or one for each slot
	MinSource string    `json:"min_source_version,omitempty"` // lowest running version that can install it directly
	Confirm   Confirm   `json:"confirm"`
	Deadline  time.Time `json:"deadline,omitzero"` // a device that has not installed it by then is graded unhealthy
	// PCRPolicies open what was sealed, on this release: for every epoch from 1 to
	// Epoch, or none at all.
	PCRPolicies []PCRPolicy `json:"pcr_policies,omitempty"`
	// Reference is the release's entry in the attestation policy (attest.Release), or a
	// list of them, one for each slot, so that an update never turns a healthy device
	// red. attest reads it.
	Reference json.RawMessage `json:"reference,omitempty"`
	Notes     string          `json:"notes,omitempty"` // for people
}

// Image is what one slot gets.
type Image struct {
	Slot   string `json:"slot"`   // kind of slot: "rootfs", "boot"; which of the two is the device's choice
	Name   string `json:"name"`   // path of the image in the repository
	Size   int64  `json:"size"`   // bytes
	SHA256 Digest `json:"sha256"` // of the whole image
	Index  string `json:"index"`  // path of its casync index (.caibx), a TUF target too: length and hashes are there
	// For is the slot, "a" or "b", that alone may get this image; absent: either. Where
	// the images of a kind differ from slot to slot, there is one for each.
	For string `json:"for,omitempty"`
}

// Fits says whether this is the image of its kind for slot.
func (i Image) Fits(slot string) bool { return i.For == "" || i.For == slot }

// Confirm says when a new release may stay. Local gates and the identity of the
// booted slot are always among the criteria.
type Confirm struct {
	Checks  []Criterion `json:"checks"`          // health checks that must be as good as before the update
	Link    bool        `json:"link"`            // connected to the fleet, if it was before
	Verdict bool        `json:"verdict"`         // judged as well as before, if it was judged before
	Timeout int64       `json:"timeout_seconds"` // after the boot; then the device goes back
}

// Criterion is one health check by its name in agent/health/all.go.
type Criterion struct {
	Check  string `json:"check"`
	Within int64  `json:"within_seconds"` // of the boot; at most Confirm.Timeout
}

// PCRPolicy is one signed policy in the terms of systemd's tpm2-pcr-signature.json
// (systemd-measure(1)), with the epoch that its policyRef names.
type PCRPolicy struct {
	Epoch     uint64 `json:"epoch"`           // in the policyRef, with product, channel and PCRs (tpmpolicy.Ref)
	Until     string `json:"until,omitempty"` // "ready" for secrets that shut then; in the policyRef, too
	Phases    string `json:"phases"`          // boot-phase path: "sysinit", "sysinit:ready", ...
	PCRs      []int  `json:"pcrs"`            // SHA-256 bank, ascending
	Key       Digest `json:"key"`             // fingerprint of the public key (tpmpolicy.Fingerprint)
	Policy    Digest `json:"policy"`          // digest of the PCR policy
	Signature []byte `json:"signature"`       // over SHA-256(Policy || policyRef)
}

// Digest is a SHA-256 value; in JSON lower-case hex.
type Digest [32]byte

// String is the JSON form without quotes.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText writes lower-case hex.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText takes exactly what MarshalText writes.
func (d *Digest) UnmarshalText(text []byte) error {
	var read Digest
	if n, err := hex.Decode(read[:], text[:min(len(text), 64)]); err != nil || n != len(read) || read.String() != string(text) {
		return fmt.Errorf("%.70q is no SHA-256 value in 64 lower-case hex digits", text)
	}
	*d = read
	return nil
}

// Parse decodes and checks the custom metadata of a release target. The error
// is a sentence that names the key.
func Parse(data []byte) (*Release, error) {
	if len(data) > MaxRelease {
		return nil, fmt.Errorf("parse release: %d bytes, at most %d are allowed", len(data), MaxRelease)
	}
	var r Release
	if err := strictjson.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("parse release: %w", err)
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("parse release: %w", err)
	}
	return &r, nil
}

// Name is how operators know a release.
func (r *Release) Name() string { return r.Product + " " + r.Version + " (" + r.Channel + ")" }
