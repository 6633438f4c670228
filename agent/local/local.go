// Package local is how people and programs on the gateway ask the agent what it
// knows: JSON over a Unix socket that the group gatewarden may open. The group reads
// and may cause a fresh attestation; what changes the gateway, or opens a secret, is
// for root.
package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/gatewarden/gatewarden/internal/wire"
)

// Status is all that the agent tells of itself.
type Status struct {
	Software     string       `json:"software"`
	Fleet        string       `json:"fleet"`
	Device       string       `json:"device"`
	Model        string       `json:"model"`
	SoftwareKeys bool         `json:"software_keys,omitempty"` // there is no TPM
	Slot         string       `json:"slot,omitempty"`
	Now          time.Time    `json:"now"`
	TimeTrusted  bool         `json:"time_trusted"`
	Phase        string       `json:"phase"` // what the identity is doing
	Problem      string       `json:"problem,omitempty"`
	Link         Link         `json:"link"`
	Outbox       Outbox       `json:"outbox"`
	Certificate  *Certificate `json:"certificate,omitempty"`
	Health       Health       `json:"health"`
	Verdict      *Verdict     `json:"verdict,omitempty"`
	Locked       bool         `json:"locked,omitempty"` // quarantine shut all secrets until the next boot
	AuditIndex   uint64       `json:"audit_index"`
	AuditHead    string       `json:"audit_head"`
}

// Link is the connection to the broker.
type Link struct {
	Connected bool      `json:"connected"`
	Identity  string    `json:"identity,omitempty"`
	Broker    string    `json:"broker,omitempty"`
	Since     time.Time `json:"since"`
	LastError string    `json:"last_error,omitempty"`
}

// Outbox is what waits to be sent.
type Outbox struct {
	Pending int    `json:"pending"`
	Dropped uint64 `json:"dropped"` // lost because it was full, since the start
}

// Health is the state of the local checks.
type Health struct {
	Grade    string         `json:"grade"`
	Findings []wire.Finding `json:"findings"`
}

// Verdict is the fleet's last one, with the time at which it arrived.
type Verdict struct {
	Grade       string    `json:"grade"`
	Gate        wire.Gate `json:"gate"`
	Issued      time.Time `json:"issued"`
	Explanation []string  `json:"explanation"`
	Result      string    `json:"result,omitempty"` // the same for others: a signed attestation result, valid for minutes
}

// Source is what the server asks.
type Source interface {
	// Status returns the present state.
	Status() Status
	// Attest asks the fleet for a fresh verdict and waits for it.
	Attest(ctx context.Context) error
}

const (
	callTimeout = 45 * time.Second
	maxAnswer   = 1 << 20 // bytes
	maxRequest  = 4 << 10 // bytes of a request's header
)

// Serve answers on l until ctx ends. updates is nil where there are none, and secrets
// where there is no TPM.
func Serve(ctx context.Context, l net.Listener, source Source, updates Updates, secrets Secrets) error {
	mux := http.NewServeMux()
	routeUpdates(mux, updates)
	routeSecrets(mux, secrets)
	routeCertificates(mux, source)
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { write(w, source.Status()) })
	mux.HandleFunc("POST /v1/attest", func(w http.ResponseWriter, r *http.Request) {
		if err := source.Attest(r.Context()); err != nil {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusServiceUnavailable)
			write(w, wire.Problem{Status: http.StatusServiceUnavailable, Title: err.Error(), Detail: "`gatewarden status` shows whether the agent is connected"})
			return
		}
		write(w, source.Status())
	})
	server := &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 2 * callTimeout, IdleTimeout: 10 * time.Second, MaxHeaderBytes: maxRequest, ConnContext: withPeer}
	stop := context.AfterFunc(ctx, func() { server.Close() }) // answers in flight are of no more use
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve local socket: %w", err)
	}
	return ctx.Err()
}

func write(w http.ResponseWriter, v any) {
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json")
	}
	_ = json.NewEncoder(w).Encode(v) // the caller is gone: nothing to do
}

// Get asks the agent that listens on socket for its status; with fresh it first
// has the fleet judge the device anew.
func Get(ctx context.Context, socket string, fresh bool) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	method, path := http.MethodGet, "/v1/status"
	if fresh {
		method, path = http.MethodPost, "/v1/attest"
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, nil)
	if err != nil {
		return Status{}, fmt.Errorf("make request: %w", err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}).Do(req)
	var call *url.Error // names an address that is none of the caller's business
	if errors.As(err, &call) {
		err = call.Err
	}
	if err != nil {
		return Status{}, fmt.Errorf("reach the agent at %s: %w\nhint: is gatewarden.service running, and are you in the group gatewarden?", socket, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return Status{}, fmt.Errorf("read the agent's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var p wire.Problem
		if json.Unmarshal(data, &p) != nil || p.Title == "" {
			return Status{}, fmt.Errorf("the agent answered %s", resp.Status)
		}
		return Status{}, errors.New(p.Title + "\nhint: " + p.Detail)
	}
	var s Status
	if err := json.Unmarshal(data, &s); err != nil {
		return Status{}, fmt.Errorf("read the agent's answer: %w", err)
	}
	return s, nil
}
