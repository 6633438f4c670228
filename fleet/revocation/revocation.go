// Package revocation tells anybody which of the fleet's certificates are not good
// any more: by CRL, full and delta (RFC 5280), and by OCSP (RFC 6960).
//
// Its promise: what the registry has as revoked is in the next answer, a second
// later at most. It is for peers that the fleet does not run, as a broker of its
// own process: the fleet's own doors ask the registry itself.
package revocation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gatewarden/gatewarden/fleet/ca"
	"github.com/gatewarden/gatewarden/fleet/registry"
)

// Paths below which Handler answers.
const (
	PathCRL  = "/v1/crl/" // NAME.crl, NAME-delta.crl in DER; all.pem holds every full list
	PathOCSP = "/v1/ocsp" // POST; GET with the request in base64 behind it
)

const (
	listLife   = 72 * time.Hour // a weekend without the server
	answerLife = time.Hour
	fresh      = time.Second // lists are made anew no more often
	maxRequest = 4 << 10     // bytes, of an OCSP request
	allFile    = "all.pem"
	deltaMark  = "-delta"
)

// Config of a Handler. All fields are required.
type Config struct {
	CA       *ca.CA
	Registry *registry.Store
	URL      string // of the server, https://host:port: full lists name where their delta lies
	Now      func() time.Time
	Log      *slog.Logger
}

// handler is safe for concurrent use.
type handler struct {
	Config

	mu    sync.Mutex
	made  time.Time
	lists map[string][]byte // by file name
	tag   string            // of what they name, as an ETag
}

// New returns the handler of PathCRL and PathOCSP.
func New(c Config) (http.Handler, error) {
	if c.CA == nil || c.Registry == nil || c.URL == "" || c.Now == nil || c.Log == nil {
		return nil, errors.New("revocation: incomplete configuration")
	}
	h := &handler{Config: c}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+PathCRL+"{file}", h.list)
	mux.HandleFunc("POST "+PathOCSP, h.post)
	mux.HandleFunc("GET "+PathOCSP+"/{request...}", h.get)
	return mux, nil
}

// list answers one file.
func (h *handler) list(w http.ResponseWriter, r *http.Request) {
	lists, tag, err := h.current(r.Context())
	if err != nil {
		h.Log.Error("make revocation lists", "error", err)
		http.Error(w, "the list could not be made now", http.StatusInternalServerError)
		return
	}
	file := r.PathValue("file")
	data, ok := lists[file]
	if !ok {
		http.NotFound(w, r)
		return
	}
	kind := "application/pkix-crl" // RFC 2585
	w.Header().Set("Cache-Control", "no-cache")
	if file == allFile {
		kind = "application/x-pem-file"
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	w.Header().Set("Content-Type", kind)
	_, _ = w.Write(data) // who asked is gone
}

// current returns the lists, made anew if they are older than fresh, and their tag.
func (h *handler) current(ctx context.Context) (map[string][]byte, string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.Now()
	if age := now.Sub(h.made); h.lists != nil && age >= 0 && age < fresh {
		return h.lists, h.tag, nil
	}
	// What expired since the last list that may still be in use stays on this one
	// (RFC 5280, section 3.3).
	revoked, err := h.Registry.Revoked(ctx, now.Add(-listLife))
	if err != nil {
		return nil, "", err
	}
	lists, err := h.make(revoked, now)
	if err == nil {
		h.lists, h.tag, h.made = lists, tagOf(revoked, now), now
	}
	return lists, h.tag, err
}

// tagOf changes when something was revoked, and each day: who fetches by it has a
// list that is good, and a new one only if it says something new.
func tagOf(revoked []registry.Certificate, now time.Time) string {
	sum := sha256.New()
	fmt.Fprintln(sum, now.UTC().Format(time.DateOnly))
	for _, c := range revoked {
		fmt.Fprintln(sum, c.Serial)
	}
	return `"` + hex.EncodeToString(sum.Sum(nil)) + `"`
}

func (h *handler) make(revoked []registry.Certificate, now time.Time) (map[string][]byte, error) {
	entries, err := byIssuer(revoked)
	if err != nil {
		return nil, err
	}
	base := now.Add(-listLife)
	lists := make(map[string][]byte)
	var all bytes.Buffer
	for _, i := range h.CA.Intermediates() {
		full := ca.List{
			Now: now, Life: listLife, Revoked: entries[string(i.Cert.SubjectKeyId)],
			Freshest: h.URL + PathCRL + i.Name + deltaMark + ".crl",
		}
		delta := ca.List{Now: now, Life: listLife, Base: base}
		for _, e := range full.Revoked {
			if !e.At.Before(base) {
				delta.Revoked = append(delta.Revoked, e)
			}
		}
		for file, list := range map[string]ca.List{i.Name + ".crl": full, i.Name + deltaMark + ".crl": delta} {
			if lists[file], err = h.CA.CRL(i.Cert, list); err != nil {
				return nil, err
			}
		}
		if err := pem.Encode(&all, &pem.Block{Type: "X509 CRL", Bytes: lists[i.Name+".crl"]}); err != nil {
			return nil, err
		}
	}
	lists[allFile] = all.Bytes()
	return lists, nil
}

// byIssuer sorts certificates by the key id of who issued them.
func byIssuer(revoked []registry.Certificate) (map[string][]ca.Entry, error) {
	entries := make(map[string][]ca.Entry)
	for _, c := range revoked {
		cert, err := x509.ParseCertificate(c.DER)
		if err != nil {
			return nil, fmt.Errorf("parse certificate %s of the journal: %w", c.Serial, err)
		}
		issuer := string(cert.AuthorityKeyId)
		entries[issuer] = append(entries[issuer], entryOf(c))
	}
	return entries, nil
}

// Reason codes of RFC 5280, section 5.3.1, that the fleet knows of.
const superseded = 4

func entryOf(c registry.Certificate) ca.Entry {
	e := ca.Entry{Serial: c.Serial, At: c.RevokedAt}
	if c.Reason == "superseded" {
		e.Reason = superseded
	}
	return e
}

func (h *handler) post(w http.ResponseWriter, r *http.Request) {
	der, err := io.ReadAll(io.LimitReader(r.Body, maxRequest+1))
	if err != nil || len(der) > maxRequest {
		der = nil
	}
	h.ocsp(w, r, der)
}

// get takes the request from the path (RFC 6960, appendix A.1).
func (h *handler) get(w http.ResponseWriter, r *http.Request) {
	text, err := url.PathUnescape(strings.TrimPrefix(r.URL.EscapedPath(), PathOCSP+"/"))
	if err != nil || len(text) > 2*maxRequest {
		text = ""
	}
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		der = nil
	}
	h.ocsp(w, r, der)
}

func (h *handler) ocsp(w http.ResponseWriter, r *http.Request, der []byte) {
	answer, err := h.answer(r.Context(), der)
	if err != nil {
		h.Log.Error("answer OCSP request", "error", err)
		http.Error(w, "the request could not be answered now", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/ocsp-response")
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(answer) // who asked is gone
}

func (h *handler) answer(ctx context.Context, der []byte) ([]byte, error) {
	question, err := h.CA.ParseOCSP(der)
	if err != nil {
		if refusal := ca.RefuseOCSP(err); refusal != nil {
			return refusal, nil
		}
		return nil, err
	}
	status, entry, err := h.status(ctx, question)
	if err != nil {
		return nil, err
	}
	return h.CA.OCSP(question, status, entry, h.Now(), answerLife)
}

// status is what the journal says. Good is a certificate that is in it, by this
// issuer: a forged one is unknown, whatever its serial number.
func (h *handler) status(ctx context.Context, q ca.Question) (int, ca.Entry, error) {
	c, err := h.Registry.Certificate(ctx, q.Serial.Text(16))
	if errors.Is(err, registry.ErrNotFound) {
		return ca.Unknown, ca.Entry{}, nil
	}
	if err != nil {
		return 0, ca.Entry{}, err
	}
	cert, err := x509.ParseCertificate(c.DER)
	if err != nil {
		return 0, ca.Entry{}, fmt.Errorf("parse certificate %s of the journal: %w", c.Serial, err)
	}
	switch {
	case !bytes.Equal(cert.AuthorityKeyId, q.Issuer.SubjectKeyId):
		return ca.Unknown, ca.Entry{}, nil
	case c.RevokedAt.IsZero():
		return ca.Good, ca.Entry{}, nil
	}
	return ca.Revoked, entryOf(c), nil
}
