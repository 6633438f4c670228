// Package operator is the API by which people run the fleet: approve and revoke
// devices, hand in signed commands, and read what the registry knows.
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
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/fleet/verifier"
	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// Config of the API. All fields are required.
type Config struct {
	Registry *registry.Store
	Deliver  func(ctx context.Context, device string) error // sends what waits for device
	Drop     func(identity string)                          // ends the sessions of an identity
	Vouched  func(registry.Device) bool                     // whether a known TPM maker vouches for the device's EK
	Now      func() time.Time
	Log      *slog.Logger
}

type api struct{ Config }

// Decision is the body of approve and revoke.
type Decision struct {
	By     string `json:"by"`
	Reason string `json:"reason,omitempty"`
	// AcceptEK approves a device whose EK certificate no known TPM maker signed.
	AcceptEK bool `json:"accept_ek,omitempty"`
}

// New returns the handler of the API.
func New(c Config) (http.Handler, error) {
	if c.Registry == nil || c.Deliver == nil || c.Drop == nil || c.Vouched == nil || c.Now == nil || c.Log == nil {
		return nil, errors.New("operator API: incomplete configuration")
	}
	a := &api{c}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/devices", a.handle(a.list))
	mux.HandleFunc("GET /v1/devices/{id}", a.handle(a.show))
	mux.HandleFunc("POST /v1/devices/{id}/approve", a.handle(a.approve))
	mux.HandleFunc("POST /v1/devices/{id}/revoke", a.handle(a.revoke))
	mux.HandleFunc("POST /v1/devices/{id}/commands", a.handle(a.command))
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
	rows, err := a.Registry.Devices(r.Context(), registry.Filter{
		State: q.Get("state"), Grade: q.Get("grade"), Model: q.Get("model"), Search: q.Get("search"), After: q.Get("after"),
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

// approve lets a device in and freezes the firmware values that it showed.
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
	if decision.By == "" {
		return nil, refuse(http.StatusBadRequest, "nobody is named as the one who approves", "give --by NAME")
	}
	if d.State != registry.Pending {
		return nil, refuse(http.StatusConflict, id+" is "+d.State+", not waiting for approval", "gatewarden-fleet devices show "+id+" tells more")
	}
	if !decision.AcceptEK && !a.Vouched(d) {
		return nil, refuse(http.StatusConflict, "no known TPM maker vouches for this device's EK", "add the maker to ek_roots, or approve with --accept-ek if you know this machine")
	}
	if err := a.freeze(ctx, d, decision.By); err != nil {
		return nil, err
	}
	if err := a.Registry.SetState(ctx, id, registry.Active, decision.By, decision.Reason, a.Now()); err != nil {
		return nil, err
	}
	err = a.Registry.AddEvent(ctx, registry.Event{Device: id, At: a.Now(), Kind: "device.approved", Severity: registry.Info,
		Text: "approved by " + decision.By + "; the firmware values that it showed are the reference for " + d.Model})
	return struct{}{}, err
}

func (a *api) freeze(ctx context.Context, d registry.Device, by string) error {
	verdict, err := verifier.LastVerdict(ctx, a.Registry, d)
	if errors.Is(err, registry.ErrNotFound) {
		return refuse(http.StatusConflict, d.ID+" has not attested yet, so there is nothing to approve", "wait a few seconds and repeat")
	}
	if err != nil {
		return err
	}
	var facts attest.Facts
	if err := json.Unmarshal(verdict.Facts, &facts); err != nil {
		return fmt.Errorf("decode facts of %s: %w", d.ID, err)
	}
	name := d.Model + " " + verdict.At.UTC().Format("2006-01-02") + " as shown by " + d.ID
	return a.addFirmware(ctx, d.Model, facts.FirmwareSet(name), by)
}

func (a *api) revoke(r *http.Request) (any, error) {
	var decision Decision
	if err := readJSON(r, &decision); err != nil {
		return nil, err
	}
	if decision.By == "" || decision.Reason == "" {
		return nil, refuse(http.StatusBadRequest, "who revokes and why is missing", "give --by NAME and --reason TEXT")
	}
	ctx, id := r.Context(), r.PathValue("id")
	if err := a.Registry.SetState(ctx, id, registry.Revoked, decision.By, decision.Reason, a.Now()); err != nil {
		return nil, err
	}
	if _, err := a.Registry.RevokeCertificates(ctx, id, "", decision.Reason, a.Now()); err != nil {
		return nil, err
	}
	a.Drop(id)
	a.Drop(wire.QuarantineID(id))
	return struct{}{}, a.Registry.AddEvent(ctx, registry.Event{Device: id, At: a.Now(), Kind: "device.revoked", Severity: registry.Warning,
		Text: "revoked by " + decision.By + ": " + decision.Reason})
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
