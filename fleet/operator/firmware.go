package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/registry"
)

// Firmware is a set that gateways of a model show and nobody approved.
type Firmware struct {
	Model       string    `json:"model"`
	Hash        string    `json:"hash"`    // attest.FirmwareSet.Hash
	Devices     int       `json:"devices"` // gateways with a certified TPM that show it
	Of          int       `json:"of"`      // such gateways of the model
	Others      int       `json:"others"`  // gateways that show it, and whose TPM no maker vouches for
	First       time.Time `json:"first"`
	FirstDevice string    `json:"first_device"`
	Text        string    `json:"text"` // how it differs from what was approved
	// Measurements are what would be approved.
	Measurements []attest.Measurement `json:"measurements"`
}

// FirmwareDecision is the body of a firmware approval.
type FirmwareDecision struct {
	Model string `json:"model"`
	Hash  string `json:"hash"`
	Name  string `json:"name"` // by which verdicts call it
	By    string `json:"by"`
}

// mostProposals is how many are listed; the most frequent come first.
const mostProposals = 100

func (a *api) firmware(r *http.Request) (any, error) {
	proposals, err := a.Registry.Proposals(r.Context(), mostProposals)
	if err != nil {
		return nil, err
	}
	list := make([]Firmware, 0, len(proposals))
	for _, p := range proposals {
		var set attest.FirmwareSet
		if err := json.Unmarshal(p.Body, &set); err != nil {
			return nil, fmt.Errorf("decode firmware of %s: %w", p.Model, err)
		}
		list = append(list, Firmware{
			Model: p.Model, Hash: p.Hash, Devices: p.Devices, Of: p.Of, Others: p.Others, First: p.First, FirstDevice: p.FirstDevice,
			Text: p.Text, Measurements: set.Measurements,
		})
	}
	return list, nil
}

// approveFirmware freezes a proposed set for its model.
func (a *api) approveFirmware(r *http.Request) (any, error) {
	var decision FirmwareDecision
	if err := readJSON(r, &decision); err != nil {
		return nil, err
	}
	if decision.By == "" || decision.Name == "" {
		return nil, refuse(http.StatusBadRequest, "who approves, or a name for the firmware, is missing", "give --by NAME and --name TEXT")
	}
	ctx := r.Context()
	p, err := a.Registry.Proposal(ctx, decision.Model, decision.Hash)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, refuse(http.StatusNotFound, "no such firmware waits for approval", "gatewarden-fleet firmware list shows what does")
	}
	if err != nil {
		return nil, err
	}
	var set attest.FirmwareSet
	if err := json.Unmarshal(p.Body, &set); err != nil {
		return nil, fmt.Errorf("decode firmware of %s: %w", p.Model, err)
	}
	set.Name = decision.Name
	if err := a.addFirmware(ctx, p.Model, set, decision.By); err != nil {
		return nil, err
	}
	return struct{}{}, a.Registry.AddEvent(ctx, registry.Event{At: a.Now(), Kind: "firmware.approved", Severity: registry.Info, Text: fmt.Sprintf(
		"firmware %s (set %.16s) was approved by %s for the model %s; %d of %d gateways with a certified TPM showed it", set.Name, p.Hash, decision.By, p.Model, p.Devices, p.Of)})
}

func (a *api) addFirmware(ctx context.Context, model string, set attest.FirmwareSet, by string) error {
	body, err := json.Marshal(set)
	if err != nil {
		return fmt.Errorf("encode firmware set: %w", err)
	}
	return a.Registry.AddFirmware(ctx, model, set.Name, set.Hash(), body, by, a.Now())
}

// Share says how many gateways changed alike.
func (f Firmware) Share() string {
	text := fmt.Sprintf("%d of %d gateways of this model with a certified TPM measure this", f.Devices, f.Of)
	if f.Others > 0 {
		text += fmt.Sprintf("; so do %d whose TPM no maker vouches for", f.Others)
	}
	return text
}
