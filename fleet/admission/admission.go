// Package admission lets gateways into the fleet.
//
// Its promise: a pending device becomes active only by a person's decision: about
// this very device, about its EK or IAK before it came, or for whoever brings a one-time
// token first. That person's name is in the audit, in the transaction that admits.
package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/fleet/verifier"
)

// Callers branch on these.
var (
	ErrToken       = errors.New("the enrolment token is not good")    // which of all reasons is told to nobody without it
	ErrNotAttested = errors.New("the device has not attested yet")    // there are no firmware values to approve
	ErrUndecided   = errors.New("an operator has to decide about it") // no token, and it is on no list
)

// ByHand is by's decision about one pending device: it is let in, and the
// firmware values of its last verdict become a reference for its model.
func ByHand(ctx context.Context, store *registry.Store, d registry.Device, by, reason string, now time.Time) error {
	firmware, err := shown(ctx, store, d)
	if err != nil {
		return err
	}
	text := "approved by " + by + "; the firmware values that it showed are the reference for " + d.Model
	if d.SoftwareKeys {
		text = "approved by " + by + " with software keys: it has no TPM"
	}
	return admit(ctx, store, registry.Admission{Device: d.ID, By: by, Reason: reason, At: now, Firmware: firmware}, text)
}

// Again is by's decision to let a revoked device in once more. It takes EK and the
// attestation key that it had, and the gate decides by a verdict that is younger than
// this. What was revoked stays so, and no firmware is approved by it.
func Again(ctx context.Context, store *registry.Store, d registry.Device, by, reason string, now time.Time) error {
	return admit(ctx, store, registry.Admission{Device: d.ID, By: by, Reason: reason, At: now, Revoked: true}, "approved again by "+by+" after it was revoked: "+reason)
}

// Automatic admits a pending device by the token with this id, which CheckToken
// accepted, or by the allow-list. vouched says whether a known maker signed its
// EK certificate. nil: it is Active now.
func Automatic(ctx context.Context, store *registry.Store, d registry.Device, token string, vouched bool, now time.Time) error {
	if token != "" {
		return byToken(ctx, store, d, token, now)
	}
	if d.SoftwareKeys {
		return ErrUndecided // it has no EK that could be on a list
	}
	if !d.ApprovedAt.IsZero() {
		return ErrUndecided // its TPM was cleared or its disk replaced since: the list knew nothing of that
	}
	entry, err := listed(ctx, store, d, vouched)
	if err != nil {
		return err
	}
	a := registry.Admission{Device: d.ID, By: entry.By, Reason: "on the allow-list: " + entry.Note, At: now, Allowed: &entry}
	if entry.AcceptFirmware {
		if a.Firmware, err = shown(ctx, store, d); err != nil {
			return err
		}
	}
	err = admit(ctx, store, a, "admitted by the allow-list of "+entry.By)
	if errors.Is(err, registry.ErrNotFound) {
		return ErrUndecided // somebody else used the entry meanwhile
	}
	return err
}

func byToken(ctx context.Context, store *registry.Store, d registry.Device, id string, now time.Time) error {
	t, err := store.Token(ctx, id)
	if err != nil {
		return fmt.Errorf("admit %s: %w", d.ID, err)
	}
	a := registry.Admission{Device: d.ID, By: t.By, Reason: "token " + id + ": " + t.Note, At: now, Token: id}
	if t.AcceptFirmware {
		if a.Firmware, err = shown(ctx, store, d); err != nil {
			return err
		}
	}
	err = admit(ctx, store, a, "admitted by token "+id+" of "+t.By)
	if errors.Is(err, registry.ErrNotFound) {
		return fmt.Errorf("%w: it was used, ended or expired meanwhile", ErrToken)
	}
	return err
}

// listed finds the unused entry of d's EK, or of its machine's attestation key. A serial
// number counts only in a certificate that a maker signed: anybody can write another.
func listed(ctx context.Context, store *registry.Store, d registry.Device, vouched bool) (registry.Allowed, error) {
	hash, err := verifier.EKHash(d.EKPublic)
	if err != nil {
		return registry.Allowed{}, fmt.Errorf("admit %s: %w", d.ID, err)
	}
	names := [][2]string{{registry.AllowEK, hash}}
	if vouched {
		if _, serial, err := verifier.EKCertificate(d.EKCertificate); err == nil {
			names = append(names, [2]string{registry.AllowSerial, serial})
		}
	}
	if d.Machine != "" {
		names = append(names, [2]string{registry.AllowIAK, d.Machine})
	}
	for _, n := range names {
		entry, err := store.Allowed(ctx, n[0], n[1])
		if err == nil && entry.Device == "" {
			return entry, nil
		}
		if err != nil && !errors.Is(err, registry.ErrNotFound) {
			return registry.Allowed{}, err
		}
	}
	return registry.Allowed{}, ErrUndecided
}

func admit(ctx context.Context, store *registry.Store, a registry.Admission, text string) error {
	if err := store.Admit(ctx, a); err != nil {
		return err
	}
	return store.AddEvent(ctx, registry.Event{Device: a.Device, At: a.At, Kind: "device.approved", Severity: registry.Info, Text: text})
}

// shown is the firmware that d's last verdict saw; nil without a TPM, which shows none.
func shown(ctx context.Context, store *registry.Store, d registry.Device) (*registry.FirmwareRecord, error) {
	verdict, err := verifier.LastVerdict(ctx, store, d)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, fmt.Errorf("%s: %w", d.ID, ErrNotAttested)
	}
	if err != nil || d.SoftwareKeys {
		return nil, err
	}
	var facts attest.Facts
	if err := json.Unmarshal(verdict.Facts, &facts); err != nil {
		return nil, fmt.Errorf("decode facts of %s: %w", d.ID, err)
	}
	name := d.Model + " " + verdict.At.UTC().Format("2006-01-02") + " as shown by " + d.ID
	set := facts.FirmwareSet(name)
	body, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("encode firmware set: %w", err)
	}
	return &registry.FirmwareRecord{Model: d.Model, Name: name, Hash: set.Hash(), Set: body}, nil
}
