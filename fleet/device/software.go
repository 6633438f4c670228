package device

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/http"

	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/softkey"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// enrollSoftware is enroll for a gateway without a TPM: its first key stands for EK
// and AK. What it gets is never more than the signed policy allows such gateways.
func (a *api) enrollSoftware(w http.ResponseWriter, r *http.Request) error {
	var ask softkey.Request
	if err := a.readIntroduction(w, r, &ask); err != nil {
		return err
	}
	if err := checkClaims(ask.Version, ask.Model, ask.Hostname, ask.Software); err != nil {
		return err
	}
	if _, err := softkey.Parse(ask.FirstKey); err != nil {
		return refuse(http.StatusBadRequest, "first-key", err.Error(), "send the SubjectPublicKeyInfo of an ECDSA P-256 key")
	}
	name := softkey.Name(ask.FirstKey)
	d := registry.Device{
		ID: wire.DeviceID(a.Fleet, name), Model: ask.Model, Hostname: ask.Hostname, Software: ask.Software, State: registry.Pending,
		SoftwareKeys: true, EKName: name, AKPublic: ask.FirstKey, Created: a.Now(), LastSeen: a.Now(),
	}
	isAbout(r.Context(), d.ID)
	if !a.Verifier.Policy().AdmitsSoftware() {
		return refuse(http.StatusForbidden, softkey.Rule, "the signed policy of this fleet admits no gateway without a TPM",
			"its owner lists the rule "+softkey.Rule+" with severity degrade; docs/software-keys.md says what that means")
	}
	key, err := a.checkKey(d, ask.CSR, wire.KeyProof{Signature: ask.Proof})
	if err != nil {
		return err
	}
	token, err := a.introduce(r.Context(), d, ask.Token)
	if err != nil {
		return err
	}
	challenge, err := a.softwareTicket(r.Context(), d, ask.CSR, key, token)
	if err != nil {
		return err
	}
	return writeJSON(w, challenge)
}

// softwareTicket opens a ticket for whoever signs its nonce by the first key.
func (a *api) softwareTicket(ctx context.Context, d registry.Device, csr []byte, key, token string) (softkey.Challenge, error) {
	var nonce [32]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return softkey.Challenge{}, fmt.Errorf("make ticket: %w", err)
	}
	t, err := a.putTicket(ctx, registry.Ticket{
		Device: d.ID, SecretHash: nonce, CSRHash: sha256.Sum256(csr), Key: key, AKPublic: d.AKPublic, Token: token,
	})
	return softkey.Challenge{Version: 1, Ticket: t.ID, Device: d.ID, Nonce: nonce[:], Expires: t.Expires}, err
}

// checkSoftwareKey proves that the first key vouches for the CSR's, which is another:
// the first one is for introductions alone.
func checkSoftwareKey(fleet string, first []byte, csr *x509.CertificateRequest, proof wire.KeyProof) error {
	const next = "sign the request's digest by the first key"
	if len(proof.Public) > 0 || len(proof.Certify) > 0 {
		return refuse(http.StatusForbidden, "key-proof", "a statement of a TPM from a gateway that enrolled with software keys", next)
	}
	if string(csr.RawSubjectPublicKeyInfo) == string(first) {
		return refuse(http.StatusForbidden, "csr", "the request is for the first key itself", "make a new key for each certificate")
	}
	if err := softkey.Verify(first, softkey.Certify(fleet, csr.Raw), proof.Signature); err != nil {
		return refuse(http.StatusForbidden, "key-proof", "the first key does not vouch for the operational key: "+err.Error(), next)
	}
	return nil
}

// opens says whether secret, the password that came with a ticket, is what the ticket
// asks for.
func (a *api) opens(ticket registry.Ticket, d registry.Device, secret string) bool {
	raw, err := hex.DecodeString(secret)
	if err != nil {
		return false
	}
	if d.SoftwareKeys {
		return softkey.Verify(ticket.AKPublic, softkey.Admit(a.Fleet, ticket.ID, ticket.SecretHash[:]), raw) == nil
	}
	return sameHash(raw, ticket.SecretHash)
}
