package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/update"
	"github.com/gatewarden/gatewarden/update/chunk/store"
	"github.com/gatewarden/gatewarden/update/tuf/fetch"
)

// How patient the agent is with mirrors.
const (
	mirrorDial   = 20 * time.Second
	mirrorAnswer = 30 * time.Second
	mirrorRate   = 256 // bytes a second, at least
	mirrorWindow = 30 * time.Second
)

// mirrors are where the owner's repository is served: those of the configuration,
// then the fleet's own servers. Nothing of what they say is believed: metadata is
// signed, and all else is named by it.
type mirrors struct {
	client *http.Client
	meter  *update.Meter
	own    []string
	fleet  func() *policy.Fleet
}

func newMirrors(own []string, fleet func() *policy.Fleet) *mirrors {
	m := &mirrors{own: own, fleet: fleet}
	m.meter = &update.Meter{Next: m.transport()}
	m.client = &http.Client{Transport: m.meter}
	return m
}

func (m *mirrors) bases() []string {
	all := slices.Clone(m.own)
	for _, api := range m.fleet().API {
		all = append(all, strings.TrimSuffix(api, "/")+"/v1/tuf")
	}
	return all
}

// startAt is the context key of the number of the mirror to begin with.
type startAt struct{}

// beginAt has fetches begin with another mirror than the first: one that is whole
// and old must not hide what the others have.
func beginAt(ctx context.Context, n int) context.Context { return context.WithValue(ctx, startAt{}, n) }

// folder is a tuf.Fetcher of one folder of the repository.
type folder struct {
	mirrors *mirrors
	name    string
}

func (f folder) Fetch(ctx context.Context, name string, limit int64) (io.ReadCloser, error) {
	bases := f.mirrors.bases()
	first, _ := ctx.Value(startAt{}).(int)
	var all update.Mirrors
	for i := range bases {
		base := bases[(first+i)%len(bases)]
		one, err := fetch.New(fetch.Config{Base: base + f.name, Client: f.mirrors.client, MinRate: mirrorRate, Window: mirrorWindow})
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all.Fetch(ctx, name, limit)
}

func (m *mirrors) chunks(budget *store.Budget) ([]store.Place, error) {
	var all []store.Place
	for _, base := range m.bases() {
		one, err := store.HTTP(store.HTTPConfig{Base: base + "/chunks", Client: m.client, Budget: budget})
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// transport shows no certificate: a device that lost its own must be healed too.
func (m *mirrors) transport() *http.Transport {
	return &http.Transport{
		TLSClientConfig: &tls.Config{
			MinVersion:         tls.VersionTLS12,
			InsecureSkipVerify: true, //nolint:gosec // replaced by VerifyConnection
			VerifyConnection:   m.verify,
		},
		ForceAttemptHTTP2: true, DialContext: (&net.Dialer{Timeout: mirrorDial}).DialContext, TLSHandshakeTimeout: mirrorDial,
		ResponseHeaderTimeout: mirrorAnswer, IdleConnTimeout: mirrorAnswer, MaxIdleConnsPerHost: 1, MaxResponseHeaderBytes: 16 << 10,
	}
}

// verify checks chain and name by public authorities and the fleet's anchors, and
// not the period: what comes is verified by itself, and a wrong clock must not keep
// a device from what would heal it.
func (m *mirrors) verify(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the mirror showed no certificate")
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	for _, anchor := range m.fleet().Anchors {
		roots.AppendCertsFromPEM([]byte(anchor))
	}
	intermediates := x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		intermediates.AddCert(c)
	}
	leaf := state.PeerCertificates[0]
	if _, err = leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: leaf.NotBefore}); err != nil {
		return err
	}
	return m.verifyName(state.ServerName, leaf)
}

// verifyName checks the name that was dialled. crypto/tls does not tell which
// address was dialled where it is an IP address: then one of the mirrors' must do.
func (m *mirrors) verifyName(name string, leaf *x509.Certificate) error {
	if name != "" {
		return leaf.VerifyHostname(name)
	}
	for _, base := range m.bases() {
		u, err := url.Parse(base)
		if err == nil && net.ParseIP(u.Hostname()) != nil && leaf.VerifyHostname(u.Hostname()) == nil {
			return nil
		}
	}
	return errors.New("the mirror's certificate is for none of the mirrors' addresses")
}
