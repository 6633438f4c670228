package device_test

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/admission"
	"github.com/gatewarden/gatewarden/fleet/device"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/fleet/verifier"
	"github.com/gatewarden/gatewarden/internal/est"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// newToken makes one that is good for an hour.
func (w *world) newToken(t registry.Token) (id, text string) {
	w.Helper()
	t.By, t.Created, t.Expires = "olga", w.now(), w.now().Add(time.Hour)
	id, text, err := admission.NewToken(w.Context(), w.store, t)
	w.must(err)
	return id, text
}

// comesIn enrols without any operator; the certificate is the answer.
func (b *box) comesIn() {
	b.Helper()
	t := b.ticket()
	claim := spkiOf(b.T, t.key.Public())
	b.attest(t.call, claim)
	// Approval comes with this request, so the verdict of before is older than it.
	if a := b.do(t.simpleEnroll()); a.status != http.StatusAccepted || !strings.Contains(string(a.body), "nonce") {
		b.Fatalf("simpleenroll: %d %s", a.status, a.body)
	}
	b.attest(t.call, claim)
	if a := b.do(t.simpleEnroll()); a.status != http.StatusOK {
		b.Fatalf("simpleenroll: %d %s", a.status, a.body)
	}
}

func TestTokenLetsInOneGatewayThatProvesItsTPM(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	first, second := w.box(), w.box()
	id, text := w.newToken(registry.Token{AcceptEK: true, AcceptFirmware: true})
	first.token, second.token = text, text
	waiting := second.ticket() // the token is unused still
	first.comesIn()
	d, err := w.store.Device(t.Context(), first.id)
	if err != nil || d.State != registry.Active || d.ApprovedBy != "olga" || d.Grade != "trusted" {
		t.Errorf("device %+v, %v", d, err)
	}
	if used, err := w.store.Token(t.Context(), id); err != nil || used.Device != first.id {
		t.Errorf("token %+v, %v", used, err)
	}
	second.attest(waiting.call, spkiOf(t, waiting.key.Public()))
	w.refused(waiting.simpleEnroll(), http.StatusForbidden, "token")
	w.refused(call{path: wire.PathEnroll, body: second.ask(second.key())}, http.StatusForbidden, "token")
	// Who used it is not held up by it, whatever becomes of it.
	w.ahead.Store(int64(2 * time.Hour))
	first.ticket()
	first.newAK()
	again := first.ticket()
	if a := w.do(again.simpleEnroll()); a.status != http.StatusAccepted {
		t.Errorf("a new attestation key behind a used token: %d %s", a.status, a.body)
	}
}

func TestTokenThatIsNotGoodIsRefusedBeforeAnythingIsStored(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	b := w.box()
	ended, endedText := w.newToken(registry.Token{AcceptEK: true})
	w.must(w.store.RevokeToken(t.Context(), ended, "olga", "lost", w.now()))
	_, good := w.newToken(registry.Token{AcceptEK: true})
	_, strict := w.newToken(registry.Token{})
	for name, text := range map[string]string{
		"garbage": "x", "no hex": "gwt-0000000000000000-zz", "unknown": "gwt-0000000000000000-" + strings.Repeat("00", 16),
		"another secret": good[:len(good)-2] + flip(good[len(good)-2:]), "ended": endedText, "for known makers only": strict,
		"long": strings.Repeat("gwt-", 5000),
	} {
		b.token = text
		if a := w.do(call{path: wire.PathEnroll, body: b.ask(b.key())}); a.status != http.StatusForbidden || a.problem.Rule != "token" || strings.Contains(a.problem.Title, good[21:]) {
			t.Errorf("%s: %d %+v", name, a.status, a.problem)
		}
	}
	b.token = good
	w.ahead.Store(int64(61 * time.Minute))
	w.refused(call{path: wire.PathEnroll, body: b.ask(b.key())}, http.StatusForbidden, "token")
	if counts, err := w.store.Counts(t.Context()); err != nil || len(counts) != 0 {
		t.Errorf("devices %+v, %v", counts, err)
	}
}

// flip returns other hex digits.
func flip(s string) string {
	raw, _ := hex.DecodeString(s)
	return fmt.Sprintf("%02x", raw[0]^1)
}

func TestHundredGatewaysWithOneTokenAreOneAdmission(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	id, _ := w.newToken(registry.Token{AcceptEK: true})
	key := newKey(t)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{SignatureAlgorithm: x509.ECDSAWithSHA256}, key)
	w.must(err)
	const n = 100
	var admitted, refused atomic.Int32
	var wg sync.WaitGroup
	client := w.client(nil)
	for i := range n {
		name := fmt.Sprintf("gw-%016d", i)
		w.known(name, registry.Pending)
		w.must(w.store.PutTicket(t.Context(), registry.Ticket{
			ID: name, Device: name, SecretHash: sha256.Sum256([]byte(name)), CSRHash: sha256.Sum256(csr), Key: spkiOf(t, key.Public()), AKPublic: []byte(name),
			Token: id, Expires: w.now().Add(time.Hour),
		}))
		wg.Go(func() {
			a := w.do(call{client: client, path: wire.PathSimpleEnroll, kind: est.TypeCSR, user: name, secret: hex.EncodeToString([]byte(name)), body: []byte(base64.StdEncoding.EncodeToString(csr))})
			switch {
			case a.status == http.StatusAccepted && strings.Contains(string(a.body), "nonce"): // in, and has to attest now
				admitted.Add(1)
			case a.problem.Rule == "token":
				refused.Add(1)
			default:
				t.Errorf("%d %s", a.status, a.body)
			}
		})
	}
	wg.Wait()
	if admitted.Load() != 1 || refused.Load() != n-1 {
		t.Errorf("%d admitted, %d refused", admitted.Load(), refused.Load())
	}
}

func TestAllowListLetsInTheEKThatItNamesOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	b, other := w.box(), w.box()
	hash, err := verifier.EKHash(b.ek.Public)
	w.must(err)
	w.must(w.store.AddAllowed(t.Context(), registry.Allowed{Kind: registry.AllowEK, Value: hash, By: "olga", Created: w.now()}))
	b.comesIn()
	if d, err := w.store.Device(t.Context(), b.id); err != nil || d.ApprovedBy != "olga" || d.Grade != "degraded" {
		t.Errorf("device %+v, %v; its firmware was approved by nobody", d, err)
	}
	waits := other.ticket()
	if a := w.do(waits.simpleEnroll()); a.status != http.StatusAccepted || a.header.Get("Retry-After") == "" {
		t.Errorf("an EK on no list: %d %s", a.status, a.body)
	}
	// A cleared TPM is something that the list knew nothing of.
	w.must(w.store.AddAllowed(t.Context(), registry.Allowed{Kind: registry.AllowEK, Value: hash, By: "olga", Created: w.now()}))
	b.newAK()
	again := b.ticket()
	if a := w.do(again.simpleEnroll()); a.status != http.StatusAccepted {
		t.Errorf("a new attestation key: %d %s", a.status, a.body)
	}
}

func TestSerialNumberCountsOnlyInACertificateOfAKnownMaker(t *testing.T) {
	t.Parallel()
	maker, power1 := tpmtest.StartManufactured(t)
	_, power2 := tpmtest.StartManufactured(t)
	makers, err := maker.CACertificates()
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(makers)
	w := newWorld(t, func(c *device.Config) { c.EKRoots = pool })
	known, unknown := w.boxOn(power1), w.boxOn(power2)
	for _, b := range []*box{known, unknown} {
		_, serial, err := verifier.EKCertificate(b.ek.Certificate)
		w.must(err)
		w.must(w.store.AddAllowed(t.Context(), registry.Allowed{Kind: registry.AllowSerial, Value: serial, By: "olga", Created: w.now()}))
	}
	known.comesIn()
	waits := unknown.ticket()
	if a := w.do(waits.simpleEnroll()); a.status != http.StatusAccepted {
		t.Errorf("a serial that anybody could have written: %d %s", a.status, a.body)
	}
}

func TestTransferredGatewayBeginsAnewAndDecommissionedOneIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	b := w.box()
	own := b.enrol()
	open := b.ticket()
	w.must(w.store.Detach(t.Context(), b.id, registry.Decommissioned, "olga", "scrapped", w.now()))
	w.refused(call{path: wire.PathEnroll, body: b.ask(b.key())}, http.StatusForbidden, "revoked")
	w.refused(open.simpleEnroll(), http.StatusUnauthorized, "ticket")
	if a, err := w.try(b.reenroll(own, b.key())); err == nil {
		t.Errorf("its certificate opens the door: %d %s", a.status, a.body)
	}
	w.must(w.store.Detach(t.Context(), b.id, registry.Pending, "olga", "to the museum", w.now()))
	again := b.ticket()
	claim := spkiOf(t, again.key.Public())
	b.attest(again.call, claim)
	if a := w.do(again.simpleEnroll()); a.status != http.StatusAccepted {
		t.Fatalf("a transferred device: %d %s", a.status, a.body)
	}
	b.approve()
	b.attest(again.call, claim)
	if a := w.do(again.simpleEnroll()); a.status != http.StatusOK {
		t.Errorf("approved by its next holder: %d %s", a.status, a.body)
	}
}

// What an operator revoked comes back by his explicit word, with a new certificate by a
// new verdict, and only on the TPM as it was.
func TestRevokedGatewayThatIsApprovedAgainEnrolsAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	b := w.box()
	own := b.enrol()
	open := b.ticket()
	back := func() {
		t.Helper()
		w.must(w.store.Detach(t.Context(), b.id, registry.Revoked, "olga", "stolen", w.now()))
		w.refused(call{path: wire.PathEnroll, body: b.ask(b.key())}, http.StatusForbidden, "revoked")
		d, err := w.store.Device(t.Context(), b.id)
		w.must(err)
		w.must(admission.Again(t.Context(), w.store, d, "olga", "it was the wrong one", w.now()))
	}
	back()
	w.refused(open.simpleEnroll(), http.StatusUnauthorized, "ticket")
	oldStaysOut := func() {
		t.Helper()
		if a, err := w.try(b.reenroll(own, b.key())); err == nil {
			t.Errorf("its revoked certificate opens the door: %d %s", a.status, a.body)
		}
	}
	oldStaysOut()
	again := b.ticket()
	if a := w.do(again.simpleEnroll()); a.status != http.StatusAccepted || !strings.Contains(string(a.body), "nonce") {
		t.Errorf("by the verdict of before: %d %s, want a challenge", a.status, a.body)
	}
	b.attest(again.call, spkiOf(t, again.key.Public()))
	if a := w.do(again.simpleEnroll()); a.status != http.StatusOK {
		t.Fatalf("approved again: %d %s", a.status, a.body)
	}
	oldStaysOut()
	back()
	b.newAK() // whoever had it cleared the TPM
	cleared := b.ticket()
	if a := w.do(cleared.simpleEnroll()); a.status != http.StatusAccepted || len(a.body) > 0 {
		t.Errorf("with another attestation key: %d %s, want a wait for an operator", a.status, a.body)
	}
	oldStaysOut()
}
