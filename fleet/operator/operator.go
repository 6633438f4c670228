// Package operator is the API by which people run the fleet: let devices in and
// out, hand in signed commands, and read what the registry knows.
//
// It listens on a Unix socket that only the server's group may open, and can
// widen nothing that a signature has to allow: a command is stored and carried as
// it was signed, whoever hands it in.
package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/admission"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/fleet/verifier"
	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// Config of the API. All fields are required.
type Config struct {
	Fleet    string
	Registry *registry.Store
	Deliver  func(ctx context.Context, device string) error // sends what waits for device
	Drop     func(identity string)                          // ends the sessions of an identity
	Vouched  func(registry.Device) bool                     // whether a known maker vouches for the device's TPM
	Now      func() time.Time
	Log      *slog.Logger
}

type api struct{ Config }

// Decision is the body of approve, revoke, transfer and decommission.
type Decision struct {
	By     string `json:"by"`
	Reason string `json:"reason,omitempty"`
	// AcceptEK approves a device whose EK certificate no known TPM maker signed.
	AcceptEK bool `json:"accept_ek,omitempty"`
	// AcceptSoftware approves a device without a TPM.
	AcceptSoftware bool `json:"accept_software,omitempty"`
	// AcceptRevoked approves a device that was revoked.
	AcceptRevoked bool `json:"accept_revoked,omitempty"`
}

// New returns the handler of the API.
func New(c Config) (http.Handler, error) {
	if c.Fleet == "" || c.Registry == nil || c.Deliver == nil || c.Drop == nil || c.Vouched == nil || c.Now == nil || c.Log == nil {
		return nil, errors.New("operator API: incomplete configuration")
	}
	a := &api{c}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/devices", a.handle(a.list))
	mux.HandleFunc("GET /v1/devices/{id}", a.handle(a.show))
	mux.HandleFunc("POST /v1/devices/{id}/approve", a.handle(a.approve))
	mux.HandleFunc("POST /v1/devices/{id}/revoke", a.handle(a.leave(registry.Revoked)))
	mux.HandleFunc("POST /v1/devices/{id}/decommission", a.handle(a.leave(registry.Decommissioned)))
	mux.HandleFunc("POST /v1/devices/{id}/transfer", a.handle(a.leave(registry.Pending)))
	mux.HandleFunc("POST /v1/devices/{id}/commands", a.handle(a.command))
	mux.HandleFunc("GET /v1/devices/{id}/evidence", a.handle(a.evidence))
	mux.HandleFunc("GET /v1/tokens", a.handle(a.tokens))
	mux.HandleFunc("POST /v1/tokens", a.handle(a.makeToken))
	mux.HandleFunc("POST /v1/tokens/{id}/revoke", a.handle(a.endToken))
	mux.HandleFunc("GET /v1/allowed", a.handle(a.allowed))
	mux.HandleFunc("POST /v1/allowed", a.handle(a.allow))
	mux.HandleFunc("POST /v1/allowed/remove", a.handle(a.disallow))
	mux.HandleFunc("GET /v1/firmware", a.handle(a.firmware))
	mux.HandleFunc("POST /v1/firmware/approve", a.handle(a.approveFirmware))
	return mux, nil
}

type problem struct{ wire.Problem }

func (p *problem) Error() string { return p.Title }

func refuse(status int, title, detail string) error {
	return &problem{wire.Problem{Status: status, Title: title, Detail: detail}}
}

func (a *api) handle(h func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		answer, err := h(r)
		status, kind := http.StatusOK, "application/json"
		if err != nil {
			var p *problem
			switch {
			case errors.As(err, &p):
			case errors.Is(err, registry.ErrNotFound):
				p = &problem{wire.Problem{Status: http.StatusNotFound, Title: "no such device", Detail: "gatewarden-fleet devices list shows those that are known"}}
			default:
				a.Log.Error("operator request", "path", r.URL.Path, "error", err)
				p = &problem{wire.Problem{Status: http.StatusInternalServerError, Title: err.Error(), Detail: "see the server's log"}}
			}
			answer, status, kind = p.Problem, p.Status, "application/problem+json"
		}
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(answer) // the caller is gone: nothing to do
	}
}

func readJSON(r *http.Request, v any) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, wire.MaxBody))
	if err == nil {
		err = strictjson.Unmarshal(body, v)
	}
	if err != nil {
		return refuse(http.StatusBadRequest, "the request is malformed: "+err.Error(), "see docs/protocol.md")
	}
	return nil
}

func (a *api) list(r *http.Request) (any, error) {
	q := r.URL.Query()
	for key, words := range map[string][]string{
		"state": {registry.Pending, registry.Active, registry.Quarantined, registry.Revoked, registry.Decommissioned},
		"grade": {string(attest.Trusted), string(attest.Degraded), string(attest.Untrusted)},
		"keys":  {registry.KeysTPM, registry.KeysSoftware},
	} {
		if word := q.Get(key); word != "" && !slices.Contains(words, word) {
			return nil, refuse(http.StatusBadRequest, fmt.Sprintf("there is no %s %q", key, word), "it is one of "+strings.Join(words, ", "))
		}
	}
	rows, err := a.Registry.Devices(r.Context(), registry.Filter{
		State: q.Get("state"), Grade: q.Get("grade"), Model: q.Get("model"), Keys: q.Get("keys"), Search: q.Get("search"), After: q.Get("after"),
	})
	if err != nil {
		return nil, err
	}
	list := make([]Device, 0, len(rows))
	for _, row := range rows {
		list = append(list, deviceOf(row.Device))
	}
	return list, nil
}

func (a *api) show(r *http.Request) (any, error) {
	ctx, id := r.Context(), r.PathValue("id")
	d, err := a.Registry.Device(ctx, id)
	if err != nil {
		return nil, err
	}
	full := Detail{Device: deviceOf(d)}
	verdict, err := a.Registry.LastVerdict(ctx, id)
	switch {
	case err == nil:
		full.Verdict = &Verdict{At: verdict.At, Grade: verdict.Grade, Gate: verdict.Gate, Explanation: verdict.Explanation}
	case !errors.Is(err, registry.ErrNotFound):
		return nil, err
	}
	if full.Certificates, err = a.certificates(ctx, id); err != nil {
		return nil, err
	}
	if full.Commands, err = a.commands(ctx, id); err != nil {
		return nil, err
	}
	health, err := a.Registry.Health(ctx, id)
	if err == nil {
		full.Health = health.Body
	} else if !errors.Is(err, registry.ErrNotFound) {
		return nil, err
	}
	return full, nil
}

// evidence is what the last verdict on a device rests on.
func (a *api) evidence(r *http.Request) (any, error) {
	id := r.PathValue("id")
	record, err := verifier.Recorded(r.Context(), a.Registry, a.Fleet, id)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, refuse(http.StatusNotFound, "there is no evidence of "+id, "it was never judged, or its event log is not held any more: wait for its next attestation")
	}
	return record, err
}

// approve lets a device in, with the firmware values that it showed, or one in again
// that was revoked.
func (a *api) approve(r *http.Request) (any, error) {
	var decision Decision
	if err := readJSON(r, &decision); err != nil {
		return nil, err
	}
	ctx, id := r.Context(), r.PathValue("id")
	d, err := a.Registry.Device(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := a.mayApprove(d, decision); err != nil {
		return nil, err
	}
	if d.State == registry.Revoked {
		return struct{}{}, admission.Again(ctx, a.Registry, d, decision.By, decision.Reason, a.Now())
	}
	err = admission.ByHand(ctx, a.Registry, d, decision.By, decision.Reason, a.Now())
	if errors.Is(err, admission.ErrNotAttested) {
		return nil, refuse(http.StatusConflict, id+" has not attested yet, so there is nothing to approve", "repeat in a few seconds; one that was out asks every 10 to 20 minutes")
	}
	return struct{}{}, err
}

// mayApprove wants a word for each thing that d lacks.
func (a *api) mayApprove(d registry.Device, decision Decision) error {
	switch {
	case decision.By == "":
		return refuse(http.StatusBadRequest, "nobody is named as the one who approves", "give --by NAME")
	case d.State == registry.Revoked && (!decision.AcceptRevoked || decision.Reason == ""):
		return refuse(http.StatusConflict, d.ID+" was revoked", "if it shall come back, approve with --accept-revoked and --reason TEXT: what was revoked stays so, it gets a new certificate")
	case d.State == registry.Decommissioned:
		return refuse(http.StatusConflict, d.ID+" is decommissioned, not waiting for approval", "gatewarden-fleet devices transfer "+d.ID+" lets it come and wait for approval again")
	case d.State != registry.Pending && d.State != registry.Revoked:
		return refuse(http.StatusConflict, d.ID+" is "+d.State+", not waiting for approval", "gatewarden-fleet devices show "+d.ID+" tells more")
	case d.SoftwareKeys && !decision.AcceptSoftware:
		return refuse(http.StatusConflict, d.ID+" has no TPM: nothing proves that its keys are not copied, or what it boots", "approve with --accept-software if you know this machine and can live with that")
	case !d.SoftwareKeys && !decision.AcceptEK && !a.Vouched(d):
		return refuse(http.StatusConflict, "no known TPM maker vouches for this device's EK", "add the maker to ek_roots, or approve with --accept-ek if you know this machine")
	}
	return nil
}

// command stores an envelope for one device and sends it on. What is in it is
// read for the records only: the device decides.
func (a *api) command(r *http.Request) (any, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, wire.MaxBody))
	if err != nil {
		return nil, err
	}
	var envelope wire.Envelope
	if err := strictjson.Unmarshal(body, &envelope); err != nil {
		return nil, refuse(http.StatusBadRequest, "this is no command envelope: "+err.Error(), "gatewarden-fleet command sign makes one")
	}
	ctx, id := r.Context(), r.PathValue("id")
	if _, err := a.Registry.Device(ctx, id); err != nil {
		return nil, err
	}
	record := registry.CommandRecord{Device: id, Envelope: body, Hash: EnvelopeHash(envelope), Created: a.Now(), Verb: "unreadable"}
	var command wire.Command
	if strictjson.Unmarshal(envelope.Command, &command) == nil {
		record.ID, record.Verb, record.Reason, record.Expires = command.ID, command.Verb, command.Reason, command.Expires
	}
	// An expired command is sent too, so that the device's refusal is on record.
	if record.Expires.Before(a.Now()) {
		record.Expires = a.Now().Add(time.Hour)
	}
	if err := a.Registry.AddCommand(ctx, record); err != nil {
		return nil, err
	}
	if err := a.Deliver(ctx, id); err != nil {
		a.Log.Info("command waits until the device connects", "device", id, "error", err)
	}
	return map[string]string{"envelope": record.Hash}, nil
}
