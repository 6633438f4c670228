package device

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/gatewarden/gatewarden/fleet/admission"
	"github.com/gatewarden/gatewarden/fleet/ca"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/fleet/verifier"
	"github.com/gatewarden/gatewarden/internal/est"
	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// TicketLife is how long an enrolment may wait for its operator.
const TicketLife = time.Hour

// enroll answers with a credential that only the TPM with this EK and AK opens.
func (a *api) enroll(w http.ResponseWriter, r *http.Request) error {
	var ask wire.EnrollRequest
	if err := a.readIntroduction(w, r, &ask); err != nil {
		return err
	}
	if err := checkClaims(ask.Version, ask.Model, ask.Hostname, ask.Software); err != nil {
		return err
	}
	d, err := a.identify(ask)
	isAbout(r.Context(), d.ID)
	if err != nil {
		return err
	}
	key, err := a.checkKey(d, ask.CSR, ask.Key)
	if err != nil {
		return err
	}
	if err := a.machine(r.Context(), &d, ask); err != nil {
		return err
	}
	token, err := a.introduce(r.Context(), d, ask.Token)
	if err != nil {
		return err
	}
	challenge, err := a.credential(r.Context(), d, ask, key, token)
	if err != nil {
		return err
	}
	return writeJSON(w, challenge)
}

// readIntroduction reads the one kind of request that anybody may send.
func (a *api) readIntroduction(w http.ResponseWriter, r *http.Request, ask any) error {
	if wait := a.rate.allow(r.RemoteAddr, a.Now()); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(wait.Seconds())+1))
		return refuse(http.StatusTooManyRequests, "rate", "too many enrolments from this address", "wait as long as Retry-After says")
	}
	return readJSON(r, wire.MaxBody, strictjson.Inform, ask)
}

func checkClaims(version int, model, hostname, software string) error {
	if version != 1 || len(model) > wire.MaxText || len(hostname) > wire.MaxText || len(software) > wire.MaxText || model == "" {
		return refuse(http.StatusBadRequest, "format", "version, model, hostname or software is missing or too long", "see docs/protocol.md")
	}
	return nil
}

// introduce registers a device that is new, and returns the id of the token that it
// may use, "" if it has none or needs none.
func (a *api) introduce(ctx context.Context, d registry.Device, text string) (token string, err error) {
	if token, err = a.token(ctx, d, text); err != nil {
		return "", err
	}
	if err := a.admit(ctx, d, token); err != nil {
		return "", err
	}
	known, created, err := a.Registry.Enroll(ctx, d)
	if errors.Is(err, registry.ErrConflict) {
		a.note(ctx, d.ID, "ek.conflict", registry.Alarm, "another TPM claims to be this device")
		return "", refuse(http.StatusForbidden, "ek-conflict", "this device id belongs to another TPM", "the fleet's operators were told")
	}
	if err != nil {
		return "", fmt.Errorf("register %s: %w", d.ID, err)
	}
	if registry.Out(known.State) {
		return "", refuseRevoked(known)
	}
	if created {
		text := "first contact: " + d.Model + " " + d.Hostname + " waits for approval"
		switch {
		case d.SoftwareKeys:
			text += "; software keys: it has no TPM"
		case !d.Genuine():
			text += "; no known TPM maker vouches for its endorsement key"
		}
		a.note(ctx, d.ID, "device.new", registry.Info, text)
	}
	return token, nil
}

// identify checks the endorsement key and derives the device from it.
func (a *api) identify(ask wire.EnrollRequest) (registry.Device, error) {
	name, err := verifier.Name(ask.EKPublic)
	if err == nil {
		err = verifier.CheckEK(ask.EKPublic)
	}
	if err != nil {
		return registry.Device{}, refuse(http.StatusBadRequest, "ek", "the endorsement key is malformed: "+err.Error(), "see docs/protocol.md")
	}
	d := registry.Device{
		ID: wire.DeviceID(a.Fleet, name), Model: ask.Model, Hostname: ask.Hostname, Software: ask.Software, State: registry.Pending,
		EKName: name, EKPublic: ask.EKPublic, EKCertificate: ask.EKCertificate, AKPublic: ask.AKPublic, Created: a.Now(), LastSeen: a.Now(),
	}
	if len(ask.EKCertificate) == 0 || a.EKRoots == nil {
		return d, nil
	}
	err = verifier.VerifyEK(ask.EKCertificate, ask.EKChain, a.EKRoots, ask.EKPublic, a.Now())
	if unknownMaker(err) {
		return d, nil
	}
	if err != nil {
		return d, refuse(http.StatusForbidden, "ek-certificate", "the endorsement key's certificate does not hold: "+err.Error(),
			"this is not the certificate of the key that was sent; see docs/protocol.md")
	}
	d.EKVerified = true
	return d, nil
}

// machine notes what the machine's maker says of d's TPM. What does not hold is no
// reason to refuse a device that its EK certificate, or a person, lets in. A machine
// vouches for one device: software on it could make up any number of EKs.
func (a *api) machine(ctx context.Context, d *registry.Device, ask wire.EnrollRequest) error {
	if ask.IAK == nil || a.EKRoots == nil {
		return nil
	}
	machine, err := verifier.VerifyIAK(*ask.IAK, a.EKRoots, ask.AKPublic, wire.IAKQualifyingData(a.Fleet, d.EKName), a.Now())
	if err != nil {
		a.Log.Info("the maker's attestation key does not vouch", "device", d.ID, "error", err)
		return nil
	}
	other, err := a.Registry.OfMachine(ctx, machine)
	if err != nil {
		return err
	}
	if other != "" && other != d.ID {
		a.note(ctx, d.ID, "machine.conflict", registry.Alarm, "the machine of "+other+" vouches for this TPM, too: it has another endorsement key now, or its software is hostile")
		return nil
	}
	d.Machine = machine
	return nil
}

// unknownMaker tells a certificate that nobody known vouches for, any more or yet,
// from one that is wrong. An operator may know better about the former.
func unknownMaker(err error) bool {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	return errors.As(err, &unknown) || errors.As(err, &invalid) && invalid.Reason == x509.Expired
}

// admit bounds how many devices wait for an operator. Anybody can make up
// endorsement keys; a maker's certificate or a token nobody can, so a flood of the
// former does not keep out devices with the latter.
func (a *api) admit(ctx context.Context, d registry.Device, token string) error {
	if d.Genuine() || token != "" {
		return nil
	}
	if _, err := a.Registry.Device(ctx, d.ID); !errors.Is(err, registry.ErrNotFound) {
		return err // known already, or the database is ill
	}
	counts, err := a.Registry.Counts(ctx)
	if err != nil {
		return fmt.Errorf("count devices: %w", err)
	}
	waiting := 0
	for _, c := range counts {
		if c.State == registry.Pending {
			waiting += c.N
		}
	}
	if waiting >= a.MaxPending {
		return refuse(http.StatusServiceUnavailable, "queue", fmt.Sprintf("%d devices wait for approval already", waiting),
			"the operators of this fleet have to approve or revoke some first")
	}
	return nil
}

// checkKey proves that the CSR's key lives in the TPM that holds the device's AK, or
// that its first key vouches for it; it returns the SPKI hash of that key.
func (a *api) checkKey(d registry.Device, csrDER []byte, proof wire.KeyProof) (string, error) {
	csr, err := est.ParseCSR(csrDER)
	if err != nil {
		return "", refuse(http.StatusBadRequest, "csr", err.Error(), "make a PKCS #10 request with an ECDSA P-256 key")
	}
	if csr.Subject.CommonName != d.ID {
		return "", refuse(http.StatusForbidden, "csr", fmt.Sprintf("the request is for %q, the device is %s", csr.Subject.CommonName, d.ID), "request the device's own id")
	}
	if d.SoftwareKeys {
		err = checkSoftwareKey(a.Fleet, d.AKPublic, csr, proof)
	} else {
		err = a.checkTPMKey(d.AKPublic, csr, proof)
	}
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:]), nil
}

func (a *api) checkTPMKey(ak []byte, csr *x509.CertificateRequest, proof wire.KeyProof) error {
	if err := verifier.VerifyCertify(ak, proof.Certify, proof.Signature, proof.Public, wire.CertifyQualifyingData(a.Fleet, csr.Raw)); err != nil {
		return refuse(http.StatusForbidden, "key-proof", "the operational key is not proven to live in this TPM: "+err.Error(), "certify it with the attestation key")
	}
	if err := verifier.SameKey(proof.Public, csr.PublicKey); err != nil {
		return refuse(http.StatusForbidden, "key-proof", err.Error(), "certify the key that the request is signed with")
	}
	return nil
}

// credential opens a ticket whose secret only the device's TPM can recover.
func (a *api) credential(ctx context.Context, d registry.Device, ask wire.EnrollRequest, key, token string) (wire.EnrollChallenge, error) {
	secret := make([]byte, sha256.Size)
	if _, err := rand.Read(secret); err != nil {
		return wire.EnrollChallenge{}, fmt.Errorf("make ticket: %w", err)
	}
	akName, err := verifier.Name(ask.AKPublic)
	if err != nil {
		return wire.EnrollChallenge{}, refuse(http.StatusBadRequest, "ak", "the attestation key is malformed: "+err.Error(), "see docs/protocol.md")
	}
	blob, encrypted, err := verifier.MakeCredential(ask.EKPublic, akName, secret)
	if err != nil {
		return wire.EnrollChallenge{}, refuse(http.StatusBadRequest, "ek", "no credential can be made for this endorsement key: "+err.Error(), "see docs/protocol.md")
	}
	t, err := a.putTicket(ctx, registry.Ticket{
		Device: d.ID, SecretHash: sha256.Sum256(secret), CSRHash: sha256.Sum256(ask.CSR), Key: key, AKPublic: ask.AKPublic, Machine: d.Machine, Token: token,
	})
	return wire.EnrollChallenge{Version: 1, Ticket: t.ID, Device: d.ID, CredentialBlob: blob, EncryptedSecret: encrypted, Expires: t.Expires}, err
}

// putTicket gives t an id and a life, and opens it.
func (a *api) putTicket(ctx context.Context, t registry.Ticket) (registry.Ticket, error) {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return t, fmt.Errorf("make ticket: %w", err)
	}
	t.ID, t.Expires = hex.EncodeToString(id), a.Now().Add(TicketLife).UTC()
	if err := a.Registry.PutTicket(ctx, t); err != nil {
		return t, fmt.Errorf("store ticket: %w", err)
	}
	return t, nil
}

func (a *api) caCerts(w http.ResponseWriter, _ *http.Request) error {
	return est.WriteCertsOnly(w, a.CA.Certificates())
}

// csrAttrs asks for an ECDSA P-256 key (RFC 8951, section 4).
func (a *api) csrAttrs(w http.ResponseWriter, _ *http.Request) error { return est.WriteCSRAttrs(w) }

func (a *api) simpleEnroll(w http.ResponseWriter, r *http.Request) error {
	ticket, secret, ok := r.BasicAuth()
	if !ok {
		return refuse(http.StatusUnauthorized, "unauthenticated", "an enrolment ticket is needed", "POST "+wire.PathEnroll+" gives one")
	}
	c, err := a.byTicket(r.Context(), ticket, secret)
	if err != nil {
		return err
	}
	csr, err := a.readCSR(r)
	if err != nil {
		return err
	}
	if sha256.Sum256(csr.Raw) != c.ticket.CSRHash {
		return refuse(http.StatusForbidden, "csr", "the ticket is for another request", "send the request that the ticket was made for")
	}
	if c.device.State == registry.Pending {
		switch err := a.decide(r.Context(), &c); {
		case errors.Is(err, admission.ErrUndecided):
			return a.notYet(w, nil)
		case errors.Is(err, admission.ErrNotAttested):
			return a.attestFirst(w, r, c.device.ID)
		case err != nil:
			return err
		}
	}
	_, err = a.freshVerdict(r.Context(), c.device)
	var stale *refusal
	if errors.As(err, &stale) {
		// As after every approval, which comes after the verdict that it was made by.
		return a.attestFirst(w, r, c.device.ID)
	}
	if err != nil {
		return err
	}
	return a.issue(w, r, c, csr)
}

func (a *api) attestFirst(w http.ResponseWriter, r *http.Request, id string) error {
	challenge, err := a.Verifier.Challenge(r.Context(), id)
	if err != nil {
		return err
	}
	return a.notYet(w, challenge)
}

// notYet answers that the certificate can't be issued now (RFC 7030, section
// 4.2.3). With a challenge it can as soon as that was answered.
func (a *api) notYet(w http.ResponseWriter, challenge any) error {
	w.Header().Set("Retry-After", strconv.FormatFloat(a.Retry.Seconds(), 'f', -1, 64))
	if challenge == nil {
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	body, err := json.Marshal(challenge)
	if err != nil {
		return fmt.Errorf("encode challenge: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	_, _ = w.Write(body) // the device is gone: it will ask again
	return nil
}

// freshVerdict is the one by which a certificate may be issued now.
func (a *api) freshVerdict(ctx context.Context, d registry.Device) (registry.Verdict, error) {
	now := a.Now()
	verdict, err := verifier.LastVerdict(ctx, a.Registry, d)
	// What lies in the future is of a clock that was ahead: such a verdict does not
	// count, and such an approval lies behind every verdict.
	old := now.Sub(verdict.At).Abs() > VerdictLife || verdict.At.Before(d.ApprovedAt) && !d.ApprovedAt.After(now)
	if errors.Is(err, registry.ErrNotFound) || err == nil && old {
		return verdict, refuse(http.StatusForbidden, wire.RuleStaleVerdict, "the last verdict is too old to issue a certificate by it", "attest again, then repeat the request")
	}
	if err != nil {
		return verdict, fmt.Errorf("read verdict of %s: %w", d.ID, err)
	}
	return verdict, nil
}

func (a *api) simpleReenroll(w http.ResponseWriter, r *http.Request) error {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return refuse(http.StatusUnauthorized, "unauthenticated", "the certificate to renew is needed", "recover with "+wire.PathEnroll)
	}
	c, err := a.byCertificate(r.Context(), r.TLS.PeerCertificates[0])
	if err != nil {
		return err
	}
	csr, err := a.readCSR(r)
	if err != nil {
		return err
	}
	var proof wire.KeyProof
	raw, err := base64.StdEncoding.DecodeString(r.Header.Get(wire.KeyProofHeader))
	if err == nil {
		err = strictjson.Inform(raw, &proof)
	}
	if err != nil {
		return refuse(http.StatusBadRequest, "key-proof", "the header "+wire.KeyProofHeader+" is missing or malformed", "see docs/protocol.md")
	}
	if bytes.Equal(csr.RawSubjectPublicKeyInfo, c.cert.RawSubjectPublicKeyInfo) {
		return refuse(http.StatusForbidden, "csr", "the request repeats the old key", "make a new key for each certificate")
	}
	if _, err := a.checkKey(c.device, csr.Raw, proof); err != nil {
		return err
	}
	if c.device.State == registry.Pending {
		return refusePending()
	}
	return a.issue(w, r, c, csr)
}

func (a *api) readCSR(r *http.Request) (*x509.CertificateRequest, error) {
	csr, err := est.ReadCSR(r, wire.MaxBody)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "csr", err.Error(), "send base64 of a PKCS #10 request as application/pkcs10")
	}
	return csr, nil
}

// issue lets the gate decide and hands out what it allows. The journal entry is
// durable, and the ticket consumed, before the certificate leaves.
func (a *api) issue(w http.ResponseWriter, r *http.Request, c caller, csr *x509.CertificateRequest) error {
	ctx, now := r.Context(), a.Now()
	verdict, err := a.freshVerdict(ctx, c.device)
	if err != nil {
		return err
	}
	gate := verifier.GateNow(verdict, c.device.State)
	profile, life, identity := a.allowed(gate, c.device.ID)
	leaf, chain, err := a.CA.Issue(profile, identity, csr.PublicKey, now, life)
	if err != nil {
		return fmt.Errorf("issue certificate for %s: %w", identity, err)
	}
	record := registry.Certificate{
		Serial: leaf.SerialNumber.Text(16), Device: c.device.ID, Identity: identity, Profile: string(profile), SPKI: spki(leaf),
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, IssuedAt: now, DER: leaf.Raw,
	}
	ticket := ""
	if c.ticket != nil {
		ticket = c.ticket.ID
	}
	if err := a.Registry.AddCertificate(ctx, record, ticket); err != nil {
		return a.notIssued(ctx, c.device.ID, err)
	}
	if err := a.settle(ctx, c, record, gate); err != nil {
		return err
	}
	return est.WriteCertsOnly(w, append([]*x509.Certificate{leaf}, chain...))
}

// notIssued explains why the registry did not take a certificate or a state: what
// was true when the request came in may have changed since.
func (a *api) notIssued(ctx context.Context, id string, cause error) error {
	if errors.Is(cause, registry.ErrNotFound) {
		return refuse(http.StatusUnauthorized, "ticket", "the ticket is unknown, used or expired", "POST "+wire.PathEnroll+" again")
	}
	if !errors.Is(cause, registry.ErrState) {
		return fmt.Errorf("record of %s: %w", id, cause)
	}
	d, err := a.Registry.Device(ctx, id)
	if err != nil {
		return fmt.Errorf("read device %s: %w", id, err)
	}
	if registry.Out(d.State) {
		return refuseRevoked(d)
	}
	return refusePending()
}

func refusePending() error {
	return refuse(http.StatusForbidden, "pending", "an operator has to approve this device again", "recover with "+wire.PathEnroll)
}

// allowed translates the gate's answer. Revoked devices were refused before.
func (a *api) allowed(gate wire.Gate, id string) (ca.Profile, time.Duration, string) {
	switch gate {
	case wire.GateFull:
		return ca.Full, a.Lives.Full, id
	case wire.GateShort:
		return ca.Short, a.Lives.Short, id
	default:
		return ca.Quarantine, a.Lives.Quarantine, wire.QuarantineID(id)
	}
}

// settle revokes what the new certificate replaces and moves the device's state.
// A renewal leaves the certificate that asked for it valid: the device drops it
// when the new one is proven.
func (a *api) settle(ctx context.Context, c caller, issued registry.Certificate, gate wire.Gate) error {
	state := registry.Active
	if gate == wire.GateQuarantine {
		state = registry.Quarantined
	}
	if c.device.State != state {
		if err := a.Registry.SetState(ctx, c.device.ID, state, registry.Fleet, "certificate issued: "+string(gate), a.Now()); err != nil {
			return a.notIssued(ctx, c.device.ID, err) // who took the device out meanwhile revoked this certificate too
		}
	}
	what := "renewed"
	if c.ticket != nil {
		what = "issued by proof of EK and AK"
		if c.device.SoftwareKeys {
			what = "issued by proof of the first key: software keys"
		}
	}
	a.note(ctx, c.device.ID, "certificate."+issued.Profile, registry.Info, fmt.Sprintf("%s certificate %s %s", issued.Profile, wire.ShortSerial(issued.Serial), what))
	if c.cert != nil && c.cert.Subject.CommonName == issued.Identity {
		return nil
	}
	return a.shutOut(ctx, c.device.ID, issued.Serial, "superseded")
}
