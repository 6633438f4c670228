package device_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/admission"
	"github.com/gatewarden/gatewarden/fleet/device"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/fleet/verifier"
	"github.com/gatewarden/gatewarden/internal/est"
	"github.com/gatewarden/gatewarden/internal/softkey"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// bare is a gateway without a TPM, and no more cleverness than a test needs.
type bare struct {
	*world
	first  *ecdsa.PrivateKey
	public []byte
	id     string
	token  string
}

func (w *world) bare() *bare {
	w.Helper()
	b := &bare{world: w, first: newKey(w.T)}
	var err error
	b.public, err = x509.MarshalPKIXPublicKey(b.first.Public())
	w.must(err)
	b.id = wire.DeviceID(fleetID, softkey.Name(b.public))
	return b
}

func (b *bare) sign(digest []byte) []byte {
	b.Helper()
	signature, err := ecdsa.SignASN1(rand.Reader, b.first, digest)
	b.must(err)
	return signature
}

func (b *bare) csr(key *ecdsa.PrivateKey, subject string) []byte {
	b.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: subject}}, key)
	b.must(err)
	return der
}

func (b *bare) ask(key *ecdsa.PrivateKey) softkey.Request {
	b.Helper()
	csr := b.csr(key, b.id)
	return softkey.Request{
		Version: 1, FirstKey: b.public, CSR: csr, Proof: b.sign(softkey.Certify(fleetID, csr)), Model: "bare-box", Software: "1.0", Token: b.token,
	}
}

func (b *bare) ticket() (ticket, *ecdsa.PrivateKey) {
	b.Helper()
	key := newKey(b.T)
	ask := b.ask(key)
	var c softkey.Challenge
	b.ok(call{path: softkey.PathEnroll, body: ask}, &c)
	return ticket{id: c.Ticket, secret: hex.EncodeToString(b.sign(softkey.Admit(fleetID, c.Ticket, c.Nonce))), csr: ask.CSR}, key
}

func (b *bare) evidence(c wire.Challenge, keys ...string) attest.Evidence {
	b.Helper()
	claims, err := json.Marshal(attest.Claims{Version: 1, Keys: keys, Software: "1.0", SoftwareKeys: true})
	b.must(err)
	return attest.Evidence{Version: 1, Nonce: c.Nonce, Claims: claims, Signature: b.sign(attest.SoftwareStatement(fleetID, b.id, c.Nonce, claims))}
}

func (b *bare) attest(with func(path string, body any) call, key string) (v wire.Verdict) {
	b.Helper()
	var c wire.Challenge
	b.ok(with(wire.PathChallenge, struct{}{}), &c)
	b.ok(with(wire.PathEvidence, b.evidence(c, key)), &v)
	return v
}

func (b *bare) record() registry.Device {
	b.Helper()
	d, err := b.store.Device(b.Context(), b.id)
	b.must(err)
	return d
}

// enrol goes all the way to a certificate, let in by an operator.
func (b *bare) enrol() *tls.Certificate {
	b.Helper()
	t, key := b.ticket()
	claim := spkiOf(b.T, key.Public())
	b.attest(t.call, claim)
	if d := b.record(); d.State == registry.Pending {
		b.must(admission.ByHand(b.Context(), b.store, d, "olga", "test", b.now()))
		b.attest(t.call, claim)
	}
	return b.issued(t.simpleEnroll(), key)
}

func (b *bare) issued(c call, key *ecdsa.PrivateKey) *tls.Certificate {
	b.Helper()
	a := b.do(c)
	if a.status != http.StatusOK {
		b.Fatalf("%s: %d %s", c.path, a.status, a.body)
	}
	chain, err := est.ParseCertsOnly(a.body)
	b.must(err)
	own := &tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, c := range chain {
		own.Certificate = append(own.Certificate, c.Raw)
	}
	return own
}

func admitting() map[string]attest.Severity {
	return map[string]attest.Severity{softkey.Rule: attest.Degrade}
}

func TestGatewayWithoutTPMGetsShortCertificatesAndIsNeverTrusted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.enact(admitting())
	b := w.bare()
	own := b.enrol()
	if life := own.Leaf.NotAfter.Sub(own.Leaf.NotBefore); life > 25*time.Hour || own.Leaf.Subject.CommonName != b.id {
		t.Errorf("a certificate for %s that lives %s", own.Leaf.Subject.CommonName, life)
	}
	with := w.by(own)
	v := b.attest(with, spkiOf(t, own.Leaf.PublicKey))
	if v.Grade != "degraded" || v.Gate != wire.GateShort || v.Result != "" || !strings.Contains(v.Explanation[0], "software keys") {
		t.Errorf("verdict %+v", v)
	}
	if d := b.record(); !d.SoftwareKeys || d.State != registry.Active || d.EKVerified || d.Running != "" {
		t.Errorf("record %+v", d)
	}
	if sets, err := w.store.Firmware(t.Context(), "bare-box"); err != nil || len(sets) != 0 {
		t.Errorf("approval froze %d sets of firmware that nobody measured, %v", len(sets), err)
	}
	w.refused(call{client: w.client(own), method: http.MethodGet, path: device.PathResult}, http.StatusForbidden, softkey.Rule)
	if _, err := verifier.Recorded(t.Context(), w.store, fleetID, b.id); err == nil {
		t.Error("there is evidence for others to judge")
	}
	// Renewal: a new key each time, for which the first key vouches.
	next := newKey(t)
	csr := b.csr(next, b.id)
	renew := call{client: w.client(own), path: wire.PathSimpleReenroll, kind: est.TypeCSR, body: []byte(base64.StdEncoding.EncodeToString(csr))}
	w.refused(renew, http.StatusBadRequest, "key-proof")
	renew.proof = &wire.KeyProof{Signature: w.bare().sign(softkey.Certify(fleetID, csr))}
	w.refused(renew, http.StatusForbidden, "key-proof")
	renew.proof = &wire.KeyProof{Signature: b.sign(softkey.Certify(fleetID, csr))}
	if again := b.issued(renew, next); again.Leaf.Subject.CommonName != b.id {
		t.Errorf("renewed for %s", again.Leaf.Subject.CommonName)
	}
}

// TestPolicyAloneAdmitsGatewaysWithoutTPM: one that says nothing admits none, and
// one that says so no more takes them into quarantine.
func TestPolicyAloneAdmitsGatewaysWithoutTPM(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	b := w.bare()
	for _, rules := range []map[string]attest.Severity{nil, {softkey.Rule: attest.Distrust}} {
		w.enact(rules)
		w.refused(call{path: softkey.PathEnroll, body: b.ask(newKey(t))}, http.StatusForbidden, softkey.Rule)
	}
	if counts, err := w.store.Counts(t.Context()); err != nil || len(counts) != 0 {
		t.Fatalf("refused, and stored: %+v, %v", counts, err)
	}
	w.enact(admitting())
	w.config.Verifier.Brake = 1 // it does not hold what the owner took back
	members := map[*bare]*tls.Certificate{b: b.enrol()}
	for range 5 {
		b := w.bare()
		members[b] = b.enrol()
	}
	w.enact(nil)
	for b, own := range members {
		v := b.attest(w.by(own), spkiOf(t, own.Leaf.PublicKey))
		if v.Grade != "untrusted" || v.Gate != wire.GateQuarantine || !v.Renew || b.record().State != registry.Quarantined {
			t.Errorf("after the policy changed: %+v", v)
		}
	}
}

// TestOnlyATokenOrAPersonAdmitsSoftwareKeys: no list of EKs, no token for others.
func TestOnlyATokenOrAPersonAdmitsSoftwareKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.enact(admitting())
	b := w.bare()
	for _, kind := range []string{registry.AllowEK, registry.AllowSerial} {
		for _, value := range []string{spkiOf(t, b.first.Public()), ""} {
			w.must(w.store.AddAllowed(t.Context(), registry.Allowed{Kind: kind, Value: value, By: "olga", Created: w.now()}))
		}
	}
	pass, key := b.ticket()
	b.attest(pass.call, spkiOf(t, key.Public()))
	if a := w.do(pass.simpleEnroll()); a.status != http.StatusAccepted || b.record().State != registry.Pending {
		t.Errorf("without token and approval: %d %s, %s", a.status, a.body, b.record().State)
	}
	_, b.token = w.newToken(registry.Token{AcceptEK: true, AcceptFirmware: true})
	w.refused(call{path: softkey.PathEnroll, body: b.ask(newKey(t))}, http.StatusForbidden, "token")

	id, text := w.newToken(registry.Token{AcceptSoftware: true, AcceptFirmware: true})
	b.token = text
	pass, key = b.ticket()
	claim := spkiOf(t, key.Public())
	b.attest(pass.call, claim)
	if a := w.do(pass.simpleEnroll()); a.status != http.StatusAccepted || !strings.Contains(string(a.body), "nonce") {
		t.Fatalf("simpleenroll: %d %s", a.status, a.body)
	}
	b.attest(pass.call, claim)
	b.issued(pass.simpleEnroll(), key)
	if used, err := w.store.Token(t.Context(), id); err != nil || used.Device != b.id || b.record().ApprovedBy != "olga" {
		t.Errorf("token %+v, %v", used, err)
	}
}

// TestSoftwareTicketOpensForTheFirstKeyAlone: what was sent before is worth nothing
// to who repeats it.
func TestSoftwareTicketOpensForTheFirstKeyAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.enact(admitting())
	b, thief := w.bare(), w.bare()
	ask := b.ask(newKey(t))
	var c softkey.Challenge
	w.ok(call{path: softkey.PathEnroll, body: ask}, &c) // as the thief repeats it
	other, _ := b.ticket()
	for name, secret := range map[string]string{
		"the nonce":                  hex.EncodeToString(c.Nonce),
		"the proof of the request":   hex.EncodeToString(ask.Proof),
		"another key's signature":    hex.EncodeToString(thief.sign(softkey.Admit(fleetID, c.Ticket, c.Nonce))),
		"the answer to another":      other.secret,
		"no hex":                     "zz",
		"nothing":                    "",
		"a signature over a request": hex.EncodeToString(b.sign(softkey.Certify(fleetID, ask.CSR))),
	} {
		w.refused(call{path: wire.PathChallenge, user: c.Ticket, secret: secret, body: struct{}{}}, http.StatusUnauthorized, "ticket")
		if t.Failed() {
			t.Fatalf("opened by %s", name)
		}
	}
	for name, bad := range map[string]func(*softkey.Request){
		"proof by another key": func(r *softkey.Request) { r.Proof = thief.sign(softkey.Certify(fleetID, r.CSR)) },
		"for another id":       func(r *softkey.Request) { r.CSR = thief.ask(newKey(t)).CSR },
		"for the first key": func(r *softkey.Request) {
			r.CSR = b.csr(b.first, b.id)
			r.Proof = b.sign(softkey.Certify(fleetID, r.CSR))
		},
		"a key that is none": func(r *softkey.Request) { r.FirstKey = r.FirstKey[1:] },
		"padded key":         func(r *softkey.Request) { r.FirstKey = append(r.FirstKey, 0) },
		"no model":           func(r *softkey.Request) { r.Model = "" },
		"version 2":          func(r *softkey.Request) { r.Version = 2 },
	} {
		r := b.ask(newKey(t))
		bad(&r)
		if a := w.do(call{path: softkey.PathEnroll, body: r}); a.status < 400 || a.status >= 500 || a.problem.Rule == "" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
}

// TestEnrolmentsWithoutTPMShareTheLimitOfOneAddress: recovery is the same request.
func TestEnrolmentsWithoutTPMShareTheLimitOfOneAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.enact(admitting())
	b := w.bare()
	ask := b.ask(newKey(t))
	client := w.client(nil)
	for n := 0; ; n++ { // each address has 30 of both kinds, and one more each two seconds
		with := w.do(call{client: client, path: wire.PathEnroll, body: wire.EnrollRequest{}})
		without := w.do(call{client: client, path: softkey.PathEnroll, body: ask})
		if with.status == http.StatusTooManyRequests && without.status == http.StatusTooManyRequests && without.header.Get("Retry-After") != "" {
			return
		}
		if n == 29 {
			t.Fatalf("after %d requests each: %d and %d", n, with.status, without.status)
		}
	}
}

func TestRevokedSoftwareGatewayStaysOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.enact(admitting())
	b := w.bare()
	own := b.enrol()
	w.must(w.store.Detach(t.Context(), b.id, registry.Revoked, "olga", "stolen", w.now()))
	if _, err := w.try(call{client: w.client(own), path: wire.PathChallenge, body: struct{}{}}); err == nil {
		t.Error("a revoked certificate made a connection")
	}
	w.refused(call{path: softkey.PathEnroll, body: b.ask(newKey(t))}, http.StatusForbidden, "revoked")
}

// TestTPMDeviceCantDowngradeItselfToSoftwareKeys, with its certificate in hand and
// whatever it signs: by evidence, by renewal and by enrolment.
func TestTPMDeviceCantDowngradeItselfToSoftwareKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.enact(admitting())
	chip := w.box()
	own := chip.enrol()
	b := w.bare()
	b.id = chip.id // it says that it is the device that it was
	with := w.by(own)
	var c wire.Challenge
	w.ok(with(wire.PathChallenge, struct{}{}), &c)
	w.refused(with(wire.PathEvidence, b.evidence(c, spkiOf(t, own.Leaf.PublicKey))), http.StatusForbidden, "evidence.signature")
	next := newKey(t)
	csr := b.csr(next, chip.id)
	w.refused(call{
		client: w.client(own), path: wire.PathSimpleReenroll, kind: est.TypeCSR, body: []byte(base64.StdEncoding.EncodeToString(csr)),
		proof: &wire.KeyProof{Signature: b.sign(softkey.Certify(fleetID, csr))},
	}, http.StatusForbidden, "key-proof")
	w.refused(call{path: softkey.PathEnroll, body: b.ask(next)}, http.StatusForbidden, "csr")
	if d, err := w.store.Device(t.Context(), chip.id); err != nil || d.SoftwareKeys || d.Running != "lab 1" || d.State != registry.Active {
		t.Errorf("record %+v, %v", d, err)
	}
	// Nor does one without a TPM become one with: a quote is none of its business.
	soft := w.bare()
	cert := soft.enrol()
	with = w.by(cert)
	w.ok(with(wire.PathChallenge, struct{}{}), &c)
	ev := soft.evidence(c, spkiOf(t, cert.Leaf.PublicKey))
	ev.Quote = []byte{1}
	w.refused(with(wire.PathEvidence, ev), http.StatusForbidden, "evidence."+softkey.Rule)
}
