package local

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"github.com/gatewarden/gatewarden/agent/identity"
	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// Certificate is the operational one in use.
type Certificate struct {
	Identity  string    `json:"identity"`
	Serial    string    `json:"serial"`
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	RenewAt   time.Time `json:"renew_at"`
	SPKI      string    `json:"spki_sha256"`
	Gate      wire.Gate `json:"gate,omitempty"`   // which life the fleet allowed; empty if that is not known
	Reason    string    `json:"reason,omitempty"` // of the verdict behind it
	Why       string    `json:"why,omitempty"`    // it was asked for
}

// Certificates is what a Source may be too: one that gets certificates.
type Certificates interface {
	// CertificateRenew returns when a new certificate is in use.
	CertificateRenew(ctx context.Context) error
	// CertificateHistory lists the certificates that were issued, the newest first.
	CertificateHistory() []identity.Record
	// EnrollToken keeps a one-time token for the enrolment.
	EnrollToken(token string) error
}

const (
	pathHistory = "/v1/cert/history"
	pathRenew   = "/v1/cert/renew"
	pathToken   = "/v1/enroll/token"
)

// token is the body of a request to use one.
type token struct {
	Token string `json:"token"`
}

// routeCertificates adds the paths of certificates, if source has them. The group
// may read; what makes a new key, or lets the gateway in, is root's.
func routeCertificates(mux *http.ServeMux, source Source) {
	c, ok := source.(Certificates)
	if !ok {
		return
	}
	mux.HandleFunc("GET "+pathHistory, func(w http.ResponseWriter, _ *http.Request) { write(w, c.CertificateHistory()) })
	change := func(pattern, hint string, do func(r *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if !mayChange(r) {
				refuse(w, wire.Problem{Status: http.StatusForbidden, Title: "only root may renew the certificate or give a token", Detail: "run it with sudo"})
				return
			}
			if err := do(r); err != nil {
				refuse(w, wire.Problem{Status: http.StatusConflict, Title: err.Error(), Detail: hint})
				return
			}
			write(w, source.Status())
		})
	}
	change("POST "+pathRenew, "the certificate in use stays; `gatewarden status` shows what the agent waits for", func(r *http.Request) error {
		return c.CertificateRenew(r.Context())
	})
	change("PUT "+pathToken, "`gatewarden status` shows what the agent waits for", func(r *http.Request) error {
		var body token
		data, err := io.ReadAll(io.LimitReader(r.Body, maxRequest))
		if err == nil {
			err = strictjson.Unmarshal(data, &body)
		}
		if err != nil {
			return err
		}
		return c.EnrollToken(body.Token)
	})
}

// RenewCertificate has the agent that listens on socket renew its certificate now.
func RenewCertificate(ctx context.Context, socket string) (s Status, err error) {
	err = call(ctx, socket, http.MethodPost, pathRenew, json.RawMessage("{}"), &s)
	return s, err
}

// CertificateHistory lists the certificates that were issued, the newest first.
func CertificateHistory(ctx context.Context, socket string) (list []identity.Record, err error) {
	err = call(ctx, socket, http.MethodGet, pathHistory, nil, &list)
	return list, err
}

// EnrollToken gives the agent a one-time token for its enrolment.
func EnrollToken(ctx context.Context, socket, text string) (s Status, err error) {
	err = call(ctx, socket, http.MethodPut, pathToken, token{Token: text}, &s)
	return s, err
}
