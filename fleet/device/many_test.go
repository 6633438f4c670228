package device_test

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/est"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// approved is a device without a TPM that has everything but its certificate.
func (w *world) approved(id string, csr []byte, key string) {
	w.Helper()
	w.known(id, registry.Active)
	memory, err := json.Marshal(map[string]any{"attest": attest.Memory{Clock: attest.Clock{Key: sha256.Sum256([]byte(id))}}})
	w.must(err)
	w.must(w.store.AddVerdict(w.Context(), registry.Verdict{
		Device: id, At: w.now().Add(time.Second), Grade: "trusted", Gate: "full", Explanation: []string{"trusted"}, Memory: memory,
	}))
	w.must(w.store.PutTicket(w.Context(), registry.Ticket{
		ID: id, Device: id, SecretHash: sha256.Sum256([]byte(id)), CSRHash: sha256.Sum256(csr), Key: key, AKPublic: []byte(id), Expires: w.now().Add(time.Hour),
	}))
}

func TestHundredGatewaysEnrolAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	const n = 100
	key := newKey(t)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{SignatureAlgorithm: x509.ECDSAWithSHA256}, key)
	w.must(err)
	for i := range n {
		w.approved(wire.DeviceID(fleetID, fmt.Append(nil, i)), csr, spkiOf(t, key.Public()))
	}
	w.ahead.Store(int64(2 * time.Second)) // the verdicts are of a second ago
	client := w.client(nil)
	var wg sync.WaitGroup
	var mu sync.Mutex
	serials := map[string]bool{}
	for i := range 2 * n { // each asks twice
		wg.Go(func() {
			id := wire.DeviceID(fleetID, fmt.Append(nil, i/2))
			a := w.do(call{client: client, path: wire.PathSimpleEnroll, kind: est.TypeCSR, user: id, secret: hex.EncodeToString([]byte(id)), body: []byte(base64.StdEncoding.EncodeToString(csr))})
			if a.status == http.StatusUnauthorized && a.problem.Rule == "ticket" {
				return // the other one was quicker
			}
			chain, err := est.ParseCertsOnly(a.body)
			if err != nil || a.status != http.StatusOK || chain[0].Subject.CommonName != id {
				t.Errorf("%s: %d %s, %v", id, a.status, a.body, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			serials[chain[0].SerialNumber.Text(16)] = true
		})
	}
	wg.Wait()
	if len(serials) != n {
		t.Errorf("%d certificates for %d gateways", len(serials), n)
	}
	for i := range n {
		id := wire.DeviceID(fleetID, fmt.Append(nil, i))
		cs, err := w.store.Certificates(t.Context(), id)
		if err != nil || len(cs) != 1 || !serials[cs[0].Serial] || !cs[0].RevokedAt.IsZero() {
			t.Errorf("%s: journal %d, %v", id, len(cs), err)
		}
	}
}
