// Package device is the API that gateways call: enrolment and recovery, EST
// (RFC 7030, RFC 8951), challenges and evidence.
//
// Its promise: a certificate leaves this server only for a key that was proven to
// live in the TPM that holds the device's EK, after an operator approved that EK,
// and never a better one than the gate allows at this moment. Where signed policy
// admits gateways without a TPM, a first key of theirs stands for the EK, and what
// they get is short-lived at best.
package device

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/ca"
	"github.com/gatewarden/gatewarden/fleet/ear"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/fleet/verifier"
	"github.com/gatewarden/gatewarden/internal/softkey"
	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// VerdictLife is how old a verdict may be when a certificate is issued by it.
const VerdictLife = 10 * time.Minute

// Lives of certificates.
type Lives struct{ Full, Short, Quarantine time.Duration }

// Config of the API. All fields but EKRoots and MaxPending are required.
type Config struct {
	Fleet    string
	Registry *registry.Store
	CA       *ca.CA
	Verifier *verifier.Verifier
	EKRoots  *x509.CertPool // TPM makers; without them every device needs an operator who accepts its EK
	Lives    Lives
	Retry    time.Duration // what a device is told to wait while an operator decides
	// MaxPending is how many devices may wait for approval; one that a TPM maker
	// vouches for is let in beyond it. 0: DefaultMaxPending.
	MaxPending int
	Drop       func(identity string) // end sessions of an identity that lost its certificate
	Now        func() time.Time
	Log        *slog.Logger
}

type api struct {
	Config
	rate     *rate // of PathEnroll
	refusals refusals
}

// New returns the handler of the API. The TLS configuration of its server must be
// the one that TLS makes.
func New(c Config) (http.Handler, error) {
	if c.Fleet == "" || c.Registry == nil || c.CA == nil || c.Verifier == nil || c.Retry <= 0 || c.Drop == nil || c.Now == nil ||
		c.Log == nil || c.Lives.Full <= 0 || c.Lives.Short <= 0 || c.Lives.Quarantine <= 0 {
		return nil, errors.New("device API: incomplete configuration")
	}
	if c.MaxPending == 0 {
		c.MaxPending = DefaultMaxPending
	}
	a := &api{Config: c, rate: newRate()}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.PathEnroll, a.handle(a.enroll))
	mux.HandleFunc("POST "+softkey.PathEnroll, a.handle(a.enrollSoftware))
	mux.HandleFunc("POST "+wire.PathChallenge, a.handle(a.challenge))
	mux.HandleFunc("POST "+wire.PathEvidence, a.handle(a.evidence))
	mux.HandleFunc("GET "+PathResult, a.handle(a.result))
	mux.HandleFunc("GET "+wire.PathCACerts, a.handle(a.caCerts))
	mux.HandleFunc("GET "+wire.PathCSRAttrs, a.handle(a.csrAttrs))
	mux.HandleFunc("POST "+wire.PathSimpleEnroll, a.handle(a.simpleEnroll))
	mux.HandleFunc("POST "+wire.PathSimpleReenroll, a.handle(a.simpleReenroll))
	mux.HandleFunc("/", a.handle(func(http.ResponseWriter, *http.Request) error {
		return refuse(http.StatusNotFound, "path", "there is nothing here", "the device API is described in docs/protocol.md")
	}))
	return mux, nil
}

// refusal is an answer that tells the device what is wrong and what to do.
type refusal struct{ wire.Problem }

func (r *refusal) Error() string { return r.Title }

func refuse(status int, rule, title, detail string) error {
	return &refusal{wire.Problem{Status: status, Rule: rule, Title: title, Detail: detail}}
}

// handle turns errors into answers. What is not meant for the device is logged
// and told as no more than an internal error.
func (a *api) handle(h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		about := new(subject)
		err := h(w, r.WithContext(context.WithValue(r.Context(), subjectKey{}, about)))
		if err == nil {
			return
		}
		var declined *refusal
		var unproven *attest.Refusal
		switch {
		case errors.As(err, &declined):
		case errors.As(err, &unproven):
			declined = &refusal{wire.Problem{
				Status: http.StatusForbidden, Rule: "evidence." + unproven.Rule,
				Title: unproven.Error(), Detail: "ask for a new challenge and answer it within two minutes",
			}}
		default:
			a.Log.Error("device request", "path", r.URL.Path, "error", err)
			declined = &refusal{wire.Problem{
				Status: http.StatusInternalServerError, Title: "the fleet server could not do this now", Detail: "repeat the request later",
			}}
		}
		a.Log.Info("request refused", "path", r.URL.Path, "rule", declined.Rule, "status", declined.Status, "device", about.id, "reason", declined.Title)
		a.audit(r.Context(), about.id, declined)
		w.Header().Set("Content-Type", "application/problem+json")
		if declined.Status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Basic realm="enrolment ticket"`)
		}
		w.WriteHeader(declined.Status)
		_ = json.NewEncoder(w).Encode(declined.Problem) // the device is gone: nothing to do
	}
}

// readJSON decodes a request body with strictjson's Inform or Unmarshal.
func readJSON(r *http.Request, limit int64, decode func([]byte, any) error, v any) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return refuse(http.StatusBadRequest, "body", "the request could not be read: "+err.Error(), "repeat the request")
	}
	if int64(len(body)) > limit {
		return refuse(http.StatusRequestEntityTooLarge, "size", "the request is too large", "see the limits in docs/protocol.md")
	}
	if err := decode(body, v); err != nil {
		return refuse(http.StatusBadRequest, "format", "the request is not what this path takes: "+err.Error(), "see docs/protocol.md")
	}
	return nil
}

func writeJSON(w http.ResponseWriter, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data) // the device is gone: it will ask again
	return nil
}

// caller is who sent a request, proven by certificate or by ticket.
type caller struct {
	device registry.Device
	cert   *x509.Certificate // nil with a ticket
	ticket *registry.Ticket  // nil with a certificate
}

func (a *api) challenge(w http.ResponseWriter, r *http.Request) error {
	c, err := a.authenticate(r)
	if err != nil {
		return err
	}
	challenge, err := a.Verifier.Challenge(r.Context(), c.device.ID)
	if err != nil {
		return err
	}
	return writeJSON(w, challenge)
}

func (a *api) evidence(w http.ResponseWriter, r *http.Request) error {
	c, err := a.authenticate(r)
	if err != nil {
		return err
	}
	var ev attest.Evidence
	if err := readJSON(r, wire.MaxMessage, strictjson.Unmarshal, &ev); err != nil {
		return err
	}
	var channel verifier.Channel
	if c.cert != nil {
		channel = verifier.Channel{Identity: c.cert.Subject.CommonName, Key: spki(c.cert)}
	} else {
		channel.Key = c.ticket.Key
	}
	verdict, err := a.Verifier.Appraise(r.Context(), c.device.ID, channel, ev)
	if err != nil {
		return err
	}
	return writeJSON(w, verdict)
}

// PathResult gives a device an attestation result for others. The query's nonce is
// that of whoever will read it.
const PathResult = "/v1/attest/result"

func (a *api) result(w http.ResponseWriter, r *http.Request) error {
	c, err := a.authenticate(r)
	if err != nil {
		return err
	}
	if c.device.SoftwareKeys {
		return refuse(http.StatusForbidden, softkey.Rule, "there is no attestation result of a gateway without a TPM", "nothing that it says of its boot can be proven")
	}
	nonce := r.URL.Query().Get("nonce")
	if nonce != "" && !isNonce(nonce) {
		return refuse(http.StatusBadRequest, "nonce", "the nonce is not 8 to 88 characters of base64url", "use the one that the reader of the result gave, without padding")
	}
	token, err := a.Verifier.Result(r.Context(), c.device, nonce)
	if errors.Is(err, ear.ErrOld) || errors.Is(err, registry.ErrNotFound) {
		return refuse(http.StatusForbidden, wire.RuleStaleVerdict, "there is no verdict that is young enough", "attest again, then repeat the request")
	}
	if err != nil {
		return fmt.Errorf("make attestation result: %w", err)
	}
	w.Header().Set("Content-Type", "application/eat+jwt")
	_, _ = io.WriteString(w, token) // the device is gone: it will ask again
	return nil
}

// isNonce checks the form of an eat_nonce in JSON (RFC 9711, section 4.1).
func isNonce(text string) bool {
	return len(text) >= 8 && len(text) <= 88 && strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// note writes to the timeline of a device. What it tells of is durable already.
func (a *api) note(ctx context.Context, device, kind, severity, text string) {
	err := a.Registry.AddEvent(ctx, registry.Event{Device: device, At: a.Now(), Kind: kind, Severity: severity, Text: text})
	if err != nil {
		a.Log.Error("write timeline", "device", device, "error", err)
	}
}
