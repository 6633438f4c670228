package identity

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/gatewarden/gatewarden/internal/est"
	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const (
	requestTimeout = 60 * time.Second // one exchange, on a slow link
	handshakeLimit = 30 * time.Second
	minRetryAfter  = 200 * time.Millisecond
	maxRetryAfter  = 10 * time.Minute
)

// Refused is the fleet's answer to a request that it understood and declined.
type Refused struct{ wire.Problem }

func (r *Refused) Error() string {
	return fmt.Sprintf("the fleet refused (%d): %s: %s", r.Status, r.Title, r.Detail)
}

// pending is a 202: somebody has to decide first or, with a challenge, fresh
// evidence is wanted first.
type pending struct {
	after     time.Duration
	challenge *wire.Challenge
}

func (p *pending) Error() string { return "waiting for an operator's approval" }

func newHTTP(config *tls.Config) *http.Client {
	return &http.Client{
		Timeout: requestTimeout,
		Transport: &http.Transport{
			TLSClientConfig: config, TLSHandshakeTimeout: handshakeLimit,
			MaxIdleConns: 1, IdleConnTimeout: 10 * time.Second, ForceAttemptHTTP2: false,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// request is one call of the fleet's device API.
type request struct {
	client *http.Client
	method string
	path   string
	kind   string // content type of body
	accept string // content type that a good answer must have
	body   []byte
	user   string // HTTP Basic, with password
	secret string
	proof  string                  // KeyProofHeader
	take   func(body []byte) error // reads a good answer; what it can't read is none
}

// call tries each address of the fleet in turn until one answers.
func (i *Identity) call(ctx context.Context, r request) error {
	var errs []error
	for _, base := range i.cfg.Fleet().API {
		err := r.send(ctx, base)
		var refused *Refused
		var wait *pending
		if err == nil || errors.As(err, &wait) || errors.As(err, &refused) && refused.Status < http.StatusInternalServerError {
			return err
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return errors.New("trust/fleet.json names no address of the fleet's API")
	}
	return errors.Join(errs...)
}

func (r request) send(ctx context.Context, base string) error {
	req, err := http.NewRequestWithContext(ctx, r.method, base+r.path, bytes.NewReader(r.body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	if r.kind != "" {
		req.Header.Set("Content-Type", r.kind)
	}
	if r.path == wire.PathChallenge { // free to repeat: an idle connection may have ended meanwhile
		req.Header["X-Idempotency-Key"] = nil // sent to nobody: see http.Transport
	}
	if r.user != "" {
		req.SetBasicAuth(r.user, r.secret)
	}
	if r.proof != "" {
		req.Header.Set(wire.KeyProofHeader, r.proof)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return fmt.Errorf("reach the fleet: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, wire.MaxMessage+1))
	if err != nil {
		return fmt.Errorf("read the fleet's answer: %w", err)
	}
	if len(body) > wire.MaxMessage {
		return fmt.Errorf("the fleet's answer is longer than %d bytes", wire.MaxMessage)
	}
	return r.judge(resp, body)
}

// judge tells the fleet's answers from those of a captive portal or a proxy.
func (r request) judge(resp *http.Response, body []byte) error {
	kind := resp.Header.Get("Content-Type")
	switch {
	case resp.StatusCode == http.StatusOK && est.SameType(kind, r.accept):
		if err := r.take(body); err != nil {
			return fmt.Errorf("read the fleet's answer: %w", err)
		}
		return nil
	case resp.StatusCode == http.StatusAccepted:
		wait := &pending{after: retryAfter(resp.Header.Get("Retry-After"))}
		if est.SameType(kind, "application/json") {
			err := strictjson.Inform(body, &wait.challenge)
			if err == nil && wait.challenge != nil {
				err = isChallenge(wait.challenge)
			}
			if err != nil {
				return fmt.Errorf("read challenge: %w", err)
			}
		}
		return wait
	case est.SameType(kind, "application/problem+json"):
		var p wire.Problem
		if err := strictjson.Inform(body, &p); err != nil {
			return fmt.Errorf("read the fleet's refusal: %w", err)
		}
		p.Status = resp.StatusCode
		return &Refused{p}
	}
	return fmt.Errorf("%s answered %s with %q where %q was expected: is a proxy or a captive portal in the way?",
		resp.Request.URL.Host, resp.Status, kind, r.accept)
}

func retryAfter(header string) time.Duration {
	seconds, err := strconv.ParseFloat(header, 64)
	if err != nil {
		return maxRetryAfter / 10
	}
	return max(time.Duration(min(seconds, maxRetryAfter.Seconds())*float64(time.Second)), minRetryAfter)
}

// postJSON sends body and decodes a JSON answer. JSON that fits refuses is nobody's:
// captive portals speak it too.
func (i *Identity) postJSON(ctx context.Context, r request, body, answer any, fits func() error) error {
	data, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	r.method, r.kind, r.accept, r.body = http.MethodPost, "application/json", "application/json", data
	r.take = func(got []byte) error {
		if err := strictjson.Inform(got, answer); err != nil {
			return err
		}
		return fits()
	}
	return i.call(ctx, r)
}

// simpleEnroll is RFC 7030, section 4.2, for both of its paths.
func (i *Identity) simpleEnroll(ctx context.Context, r request, csr []byte) ([]*x509.Certificate, error) {
	r.method, r.kind = http.MethodPost, "application/pkcs10"
	r.body = []byte(base64.StdEncoding.EncodeToString(csr))
	return i.certificates(ctx, r)
}

// certificates makes a request whose answer is a certs-only CMC message.
func (i *Identity) certificates(ctx context.Context, r request) (certs []*x509.Certificate, err error) {
	r.accept = est.TypeCertsOnly
	r.take = func(body []byte) (err error) {
		if certs, err = est.ParseCertsOnly(body); err == nil && len(certs) == 0 {
			err = errors.New("it holds no certificate")
		}
		return err
	}
	err = i.call(ctx, r)
	return certs, err
}

// prove makes a full handshake with a credential that was not used before.
func (i *Identity) prove(ctx context.Context, c *Credential) error {
	_, err := i.certificates(ctx, request{client: c.tls.http, method: http.MethodGet, path: wire.PathCACerts})
	if err != nil {
		return fmt.Errorf("prove the new certificate: %w", err)
	}
	return nil
}

// CACerts asks the fleet for its CAs, of a server that nobody has vouched for yet
// (RFC 7030, section 4.1.1): only a pinned fingerprint says which to believe.
func (i *Identity) CACerts(ctx context.Context) ([]*x509.Certificate, error) {
	client := newHTTP(&tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}) //nolint:gosec // see above
	defer client.CloseIdleConnections()
	return i.certificates(ctx, request{client: client, method: http.MethodGet, path: wire.PathCACerts})
}
