package device_test

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/fleet/device"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/fleet/verifier"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

func TestTicketIsForItsHolderItsRequestAndItsHour(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	b := w.box()
	good := b.ticket()
	b.attest(good.call, spkiOf(t, good.key.Public()))
	a := w.do(good.simpleEnroll())
	if a.status != http.StatusAccepted || a.header.Get("Retry-After") != "0.25" || len(a.body) > 0 {
		t.Fatalf("before approval: %d %v %s", a.status, a.header, a.body)
	}
	b.approve()
	b.attest(good.call, spkiOf(t, good.key.Public()))
	wrong := good.simpleEnroll()
	wrong.secret = strings.Repeat("00", 32)
	w.refused(wrong, http.StatusUnauthorized, "ticket")
	wrong.secret = "no hex"
	w.refused(wrong, http.StatusUnauthorized, "ticket")
	other := good
	other.csr = b.csr(b.key(), b.id)
	w.refused(other.simpleEnroll(), http.StatusForbidden, "csr")
	w.ahead.Store(int64(device.TicketLife + time.Minute))
	w.refused(good.simpleEnroll(), http.StatusUnauthorized, "ticket")
	w.ahead.Store(0)
	if a := w.do(good.simpleEnroll()); a.status != http.StatusOK {
		t.Fatalf("the good ticket: %d %s", a.status, a.body)
	}
	w.refused(good.simpleEnroll(), http.StatusUnauthorized, "ticket")
}

// Somebody in between, with a server's key of the fleet, has ticket and secret, and a
// TPM of his own that the fleet knows (docs/adr/043).
func TestWhoReadsAWholeEnrolmentGainsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	b, thief := w.box(), w.box()
	own := thief.enrol()
	read := b.ticket()
	b.attest(read.call, spkiOf(t, read.key.Public()))
	b.approve()
	challenge := func() (c wire.Challenge) {
		w.ok(read.call(wire.PathChallenge, struct{}{}), &c)
		return c
	}
	for name, claim := range map[string]string{"the gateway's key": spkiOf(t, read.key.Public()), "his own": spkiOf(t, own.Leaf.PublicKey)} {
		t.Log("his TPM attests in its place, for " + name)
		w.refused(read.call(wire.PathEvidence, thief.evidence(challenge(), claim)), http.StatusForbidden, "evidence.signature")
	}
	t.Log("the gateway attests, for his key")
	w.refused(read.call(wire.PathEvidence, b.evidence(challenge(), spkiOf(t, own.Leaf.PublicKey))), http.StatusForbidden, "evidence.keys")
	b.attest(read.call, spkiOf(t, read.key.Public()))
	swapped := read
	for _, subject := range []string{b.id, thief.id} {
		swapped.csr = thief.csr(thief.key(), subject)
		w.refused(swapped.simpleEnroll(), http.StatusForbidden, "csr")
	}
	a := w.do(read.simpleEnroll())
	if a.status != http.StatusOK {
		t.Fatalf("the certificate of the gateway's key: %d %s", a.status, a.body)
	}
	if got := b.certificate(a.body, read.key); spkiOf(t, got.Leaf.PublicKey) != spkiOf(t, read.key.Public()) {
		t.Error("it is for another key")
	}
	w.refused(read.simpleEnroll(), http.StatusUnauthorized, "ticket")
	again := b.ticket()
	b.attest(again.call, spkiOf(t, again.key.Public()))
	if a := w.do(again.simpleEnroll()); a.status != http.StatusOK {
		t.Errorf("the gateway, once more: %d %s", a.status, a.body)
	}
}

func TestHundredConcurrentUsesOfATicketYieldOneCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	b := w.box()
	one := b.ticket()
	b.attest(one.call, spkiOf(t, one.key.Public()))
	b.approve()
	b.attest(one.call, spkiOf(t, one.key.Public()))
	client := w.client(nil)
	var group sync.WaitGroup
	var issued, refused atomic.Int32
	for range 100 {
		group.Go(func() {
			c := one.simpleEnroll()
			c.client = client
			a, err := w.try(c)
			switch {
			case err != nil:
				t.Error(err)
			case a.status == http.StatusOK:
				issued.Add(1)
			case a.status == http.StatusUnauthorized && a.problem.Rule == "ticket":
				refused.Add(1)
			default:
				t.Errorf("%d %s", a.status, a.body)
			}
		})
	}
	group.Wait()
	certificates, err := w.store.Certificates(t.Context(), b.id)
	w.must(err)
	if issued.Load() != 1 || refused.Load() != 99 || len(certificates) != 1 {
		t.Errorf("%d issued, %d refused, %d in the journal", issued.Load(), refused.Load(), len(certificates))
	}
}

func TestDeviceIDIsBoundToItsEK(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	b := w.box()
	_, _, err := w.store.Enroll(t.Context(), registry.Device{ID: b.id, Model: "x", EKName: []byte("another TPM"), EKPublic: []byte("x"), Created: w.now()})
	w.must(err)
	w.refused(call{path: wire.PathEnroll, body: b.ask(b.key())}, http.StatusForbidden, "ek-conflict")
	events, err := w.store.Events(t.Context(), b.id, 0, 10)
	w.must(err)
	if len(events) == 0 || events[0].Severity != registry.Alarm {
		t.Errorf("nobody is alarmed: %+v", events)
	}
}

func TestKeyThatIsNotProvenToLiveInTheTPMIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	b := w.box()
	key := b.key()
	csr := b.csr(key, b.id)
	good := b.ask(key)
	try := func(name string, rule string, change func(*wire.EnrollRequest)) {
		t.Helper()
		ask := good
		change(&ask)
		t.Log(name)
		w.refused(call{path: wire.PathEnroll, body: ask}, http.StatusForbidden, rule)
	}
	mine := b.ak
	b.newAK()
	try("certified by another attestation key", "key-proof", func(a *wire.EnrollRequest) { a.Key = b.prove(b.ak, key, a.CSR) })
	b.ak = mine
	try("proof for another request", "key-proof", func(a *wire.EnrollRequest) { a.CSR = csr })
	try("key in software", "key-proof", func(a *wire.EnrollRequest) {
		soft := newKey(t)
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: mustCSR(t, good.CSR).Subject, SignatureAlgorithm: x509.ECDSAWithSHA256}, soft)
		w.must(err)
		a.CSR, a.Key = der, b.prove(b.ak, key, der)
	})
	try("another key of the TPM", "key-proof", func(a *wire.EnrollRequest) { a.Key = b.prove(b.ak, b.key(), a.CSR) })
	try("altered statement", "key-proof", func(a *wire.EnrollRequest) {
		a.Key.Certify = slices.Clone(a.Key.Certify)
		a.Key.Certify[len(a.Key.Certify)-1] ^= 1
	})
	try("request for another device", "csr", func(a *wire.EnrollRequest) {
		a.CSR = b.csr(key, idA)
		a.Key = b.prove(b.ak, key, a.CSR)
	})
	if _, err := w.store.Device(t.Context(), b.id); err == nil {
		t.Error("a refused request left a device in the registry")
	}
	// Renewal asks for the same proof.
	own := b.enrol()
	again := b.reenroll(own, key)
	again.proof.Signature = slices.Clone(again.proof.Signature)
	again.proof.Signature[len(again.proof.Signature)-1] ^= 1
	w.refused(again, http.StatusForbidden, "key-proof")
	again.proof = nil
	w.refused(again, http.StatusBadRequest, "key-proof")
}

func mustCSR(t *testing.T, der []byte) *x509.CertificateRequest {
	t.Helper()
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func TestRenewalWantsANewKeyAndAFreshVerdict(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	b := w.box()
	own := b.enrol()
	by := w.by(own)
	w.ahead.Store(int64(device.VerdictLife + time.Minute))
	key := b.key()
	w.refused(b.reenroll(own, key), http.StatusForbidden, wire.RuleStaleVerdict)
	b.attest(by, spkiOf(t, own.Leaf.PublicKey))
	same := b.reenroll(own, key)
	if a := w.do(same); a.status != http.StatusOK {
		t.Fatalf("renewal: %d %s", a.status, a.body)
	} else if next := b.certificate(a.body, key); next.Leaf.Subject.CommonName != b.id {
		t.Errorf("renewed for %s", next.Leaf.Subject.CommonName)
	} else {
		w.refused(b.reenroll(next, key), http.StatusForbidden, "csr") // the old key again
	}
	if len(w.dropped) > 0 {
		t.Errorf("a renewal dropped %v: the device drops what it replaced itself", w.dropped)
	}
	w.ok(by(wire.PathChallenge, struct{}{}), nil) // so the certificate before is still good
}

func TestRenewalForAnotherDeviceIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	b := w.box()
	b.enrol()
	w.known(idA, registry.Active)
	foreign := b.reenroll(w.issued(w.ca, "full", idA, idA, time.Now()), b.key())
	w.refused(foreign, http.StatusForbidden, "csr")
}

func TestEvidenceIsForOneDeviceOneNonceAndOneChannel(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a, b := w.box(), w.box()
	ownA, ownB := a.enrol(), b.enrol()
	byA, byB := w.by(ownA), w.by(ownB)
	claim := spkiOf(t, ownA.Leaf.PublicKey)
	challenge := func(by func(string, any) call) (c wire.Challenge) {
		w.ok(by(wire.PathChallenge, struct{}{}), &c)
		return c
	}
	c := challenge(byA)
	ev := a.evidence(c, claim)
	w.refused(byB(wire.PathEvidence, ev), http.StatusForbidden, "evidence.nonce") // B relays A's
	w.ok(byA(wire.PathEvidence, ev), nil)                                         // which costs A nothing
	w.refused(byA(wire.PathEvidence, ev), http.StatusForbidden, "evidence.nonce")
	c = challenge(byB)
	w.refused(byB(wire.PathEvidence, a.evidence(c, claim)), http.StatusForbidden, "evidence.signature") // A answers for B
	// A key of A's that this channel is not.
	other := a.ticket()
	c = challenge(byA)
	w.refused(byA(wire.PathEvidence, a.evidence(c, spkiOf(t, other.key.Public()))), http.StatusForbidden, "evidence.keys")
	c = challenge(byA)
	w.refused(call{path: wire.PathEvidence, user: other.id, secret: other.secret, body: a.evidence(c, claim)}, http.StatusForbidden, "evidence.keys")
	c = challenge(byA)
	w.ahead.Store(int64(verifier.NonceLife + time.Second))
	w.refused(byA(wire.PathEvidence, a.evidence(c, claim)), http.StatusForbidden, "evidence.nonce")
}

func TestQuarantineCertificateAttestsAndRenewsAndNoMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	b := w.box()
	own := b.enrol()
	full := b.serial
	w.must(b.power.Extend(t.Context(), 4, [32]byte{1}))
	if v := b.attest(w.by(own), spkiOf(t, own.Leaf.PublicKey)); v.Gate != wire.GateQuarantine || !v.Renew {
		t.Fatalf("verdict %+v", v)
	}
	key := b.key()
	a := w.do(b.reenroll(own, key))
	if a.status != http.StatusOK {
		t.Fatalf("exchange: %d %s", a.status, a.body)
	}
	q := b.certificate(a.body, key)
	if q.Leaf.Subject.CommonName != wire.QuarantineID(b.id) || !strings.Contains(q.Leaf.Issuer.CommonName, "uarantine") {
		t.Errorf("certificate for %s by %s", q.Leaf.Subject.CommonName, q.Leaf.Issuer.CommonName)
	}
	if c, err := w.store.Certificate(t.Context(), full); err != nil || c.RevokedAt.IsZero() {
		t.Errorf("the full certificate is still good: %v", err)
	}
	if !slices.Contains(w.dropped, b.id) {
		t.Errorf("sessions dropped: %v", w.dropped)
	}
	w.dropped = nil
	if v := b.attest(w.by(q), spkiOf(t, key.Public())); v.Renew {
		t.Error("a device in quarantine is told to renew what it should have")
	}
	next := b.key()
	if a = w.do(b.reenroll(q, next)); a.status != http.StatusOK {
		t.Fatalf("renewal in quarantine: %d %s", a.status, a.body)
	}
	if again := b.certificate(a.body, next); again.Leaf.Subject.CommonName != wire.QuarantineID(b.id) {
		t.Errorf("renewed for %s", again.Leaf.Subject.CommonName)
	}
	if len(w.dropped) > 0 {
		t.Errorf("the renewal dropped %v", w.dropped)
	}
	// Claiming a key of the old identity does not help.
	var c wire.Challenge
	by := w.by(q)
	w.ok(by(wire.PathChallenge, struct{}{}), &c)
	w.refused(by(wire.PathEvidence, b.evidence(c, spkiOf(t, own.Leaf.PublicKey))), http.StatusForbidden, "evidence.keys")
}

func TestNewAttestationKeyWaitsForAnOperatorAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	b := w.box()
	own := b.enrol()
	b.newAK()
	again := b.ticket()
	if d, err := w.store.Device(t.Context(), b.id); err != nil || d.State != registry.Active {
		t.Fatalf("the ticket alone, unproven, changed the device: %s, %v", d.State, err)
	}
	if a := w.do(again.simpleEnroll()); a.status != http.StatusAccepted {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if d, err := w.store.Device(t.Context(), b.id); err != nil || d.State != registry.Pending {
		t.Errorf("state %s, %v", d.State, err)
	}
	if c, err := w.store.Certificate(t.Context(), b.serial); err != nil || c.RevokedAt.IsZero() {
		t.Errorf("certificates of before are still good: %v", err)
	}
	if !slices.Contains(w.dropped, b.id) {
		t.Error("its session goes on")
	}
	if a, err := w.try(b.reenroll(own, b.key())); err == nil {
		t.Errorf("its old certificate opens the door: %d %s", a.status, a.body)
	}
	// The verdict of minutes ago was earned by the old key.
	b.approve()
	if a := w.do(again.simpleEnroll()); a.status != http.StatusAccepted || !strings.Contains(string(a.body), "nonce") {
		t.Errorf("by the old key's verdict: %d %s, want a challenge", a.status, a.body)
	}
	b.attest(again.call, spkiOf(t, again.key.Public()))
	if a := w.do(again.simpleEnroll()); a.status != http.StatusOK {
		t.Errorf("after attesting anew: %d %s", a.status, a.body)
	}
}

func TestRevokedDeviceGetsNothingAndIsToldSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	b := w.box()
	open := b.ticket()
	w.must(w.store.SetState(t.Context(), b.id, registry.Revoked, "olga", "stolen", w.now()))
	w.refused(call{path: wire.PathEnroll, body: b.ask(b.key())}, http.StatusForbidden, "revoked")
	w.refused(open.simpleEnroll(), http.StatusForbidden, "revoked")
	w.refused(open.call(wire.PathChallenge, struct{}{}), http.StatusForbidden, "revoked")
}

func TestEKCertificateDecidesWhoNeedsAnOperatorsWord(t *testing.T) {
	t.Parallel()
	m1, power1 := tpmtest.StartManufactured(t)
	_, power2 := tpmtest.StartManufactured(t)
	makers, err := m1.CACertificates()
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(makers) {
		t.Fatal("the maker has no certificates")
	}
	w := newWorld(t, func(c *device.Config) { c.EKRoots, c.MaxPending = pool, 2 })
	known, unknown := w.boxOn(power1), w.boxOn(power2)
	verified := func(b *box) bool {
		d, err := w.store.Device(t.Context(), b.id)
		w.must(err)
		return d.EKVerified
	}
	unknown.ticket()
	if verified(unknown) {
		t.Error("a maker that nobody knows vouches for a device")
	}
	w.refused(call{path: wire.PathEnroll, body: func() wire.EnrollRequest {
		ask := unknown.ask(unknown.key())
		ask.EKCertificate = known.ek.Certificate // that of another chip
		return ask
	}()}, http.StatusForbidden, "ek-certificate")
	// Anybody can make up endorsement keys, until the queue is full.
	ask := unknown.ask(unknown.key())
	madeUp := func() call {
		next := ask
		next.EKCertificate, next.EKChain, next.EKPublic = nil, nil, madeUpEK(t)
		name, err := verifier.Name(next.EKPublic)
		w.must(err)
		key := unknown.key()
		next.CSR = unknown.csr(key, wire.DeviceID(fleetID, name))
		next.Key = unknown.prove(unknown.ak, key, next.CSR)
		return call{path: wire.PathEnroll, body: next}
	}
	w.ok(madeUp(), nil)
	w.refused(madeUp(), http.StatusServiceUnavailable, "queue")
	unknown.ticket() // who waits already may go on
	known.ticket()   // and whom a maker vouches for may come
	if !verified(known) {
		t.Error("the known maker's certificate was not taken")
	}
}

func madeUpEK(t *testing.T) []byte {
	t.Helper()
	modulus := make([]byte, 256)
	if _, err := rand.Read(modulus); err != nil {
		t.Fatal(err)
	}
	modulus[0], modulus[255] = modulus[0]|0x80, modulus[255]|1
	template := tpm2.RSAEKTemplate
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: modulus})
	return tpm2.Marshal(template)
}

func TestEnrolmentsOfOneSourceAreLimited(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	c := call{client: w.client(nil), path: wire.PathEnroll, body: []byte("{}")}
	limited := 0
	for range 40 {
		a := w.do(c)
		if a.status != http.StatusTooManyRequests {
			continue
		}
		if limited++; a.problem.Rule != "rate" || a.header.Get("Retry-After") == "" {
			t.Fatalf("%+v %v", a.problem, a.header)
		}
	}
	if limited < 5 || limited > 10 {
		t.Errorf("%d of 40 requests at once were limited", limited)
	}
	w.ahead.Store(int64(time.Hour))
	w.refused(c, http.StatusBadRequest, "format")
}

// TestFirstRequestAfterAnApprovalIsAskedForEvidenceNotRefused: the approval is
// always younger than the verdict that it was made by.
func TestFirstRequestAfterAnApprovalIsAskedForEvidenceNotRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	b := w.box()
	one := b.ticket()
	claim := spkiOf(t, one.key.Public())
	b.attest(one.call, claim)
	b.approve()
	asked := func() (c wire.Challenge) {
		t.Helper()
		a := w.do(one.simpleEnroll())
		if a.status != http.StatusAccepted || a.header.Get("Retry-After") == "" {
			t.Fatalf("%d %v %s", a.status, a.header, a.body)
		}
		w.must(json.Unmarshal(a.body, &c))
		return c
	}
	var v wire.Verdict
	b.ok(one.call(wire.PathEvidence, b.evidence(asked(), claim)), &v)
	w.ahead.Store(int64(device.VerdictLife + time.Minute))
	b.ok(one.call(wire.PathEvidence, b.evidence(asked(), claim)), &v)
	if a := w.do(one.simpleEnroll()); a.status != http.StatusOK {
		t.Errorf("after fresh evidence: %d %s", a.status, a.body)
	}
}
