package device

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// spki is the SHA-256 (hex) of a certificate's SubjectPublicKeyInfo.
func spki(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// CheckPeer judges a client certificate whose chain was verified: it must be in
// the CA's journal, in its period, and not revoked. It is asked on every
// connection, resumed ones too.
func CheckPeer(ctx context.Context, store *registry.Store, cert *x509.Certificate, now time.Time) error {
	if now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		return fmt.Errorf("certificate of %s is not valid at %s", cert.Subject.CommonName, now.UTC().Format(time.RFC3339))
	}
	revoked, err := store.IsRevoked(ctx, cert.SerialNumber.Text(16))
	if err != nil {
		return fmt.Errorf("certificate of %s: %w", cert.Subject.CommonName, err)
	}
	if revoked {
		return fmt.Errorf("certificate of %s is revoked", cert.Subject.CommonName)
	}
	return nil
}

// TLS is the configuration of the API's server: a client certificate is optional
// for the handshake, and checked on every connection that shows one.
func TLS(server func(*tls.ClientHelloInfo) (*tls.Certificate, error), clients *x509.CertPool, store *registry.Store, now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: server,
		ClientAuth:     tls.VerifyClientCertIfGiven,
		ClientCAs:      clients,
		Time:           now,
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return nil
			}
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			return CheckPeer(ctx, store, state.PeerCertificates[0], now())
		},
	}
}

// authenticate accepts a device's certificate or an enrolment ticket.
func (a *api) authenticate(r *http.Request) (caller, error) {
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		return a.byCertificate(r.Context(), r.TLS.PeerCertificates[0])
	}
	if ticket, secret, ok := r.BasicAuth(); ok {
		return a.byTicket(r.Context(), ticket, secret)
	}
	return caller{}, refuse(http.StatusUnauthorized, "unauthenticated", "a client certificate or an enrolment ticket is needed", "POST "+wire.PathEnroll+" gives a ticket")
}

func (a *api) byCertificate(ctx context.Context, cert *x509.Certificate) (caller, error) {
	id, _, ok := wire.DeviceOf(cert.Subject.CommonName)
	if !ok {
		return caller{}, refuse(http.StatusForbidden, "identity", "this certificate is not a device's", "use the operator API")
	}
	isAbout(ctx, id)
	d, err := a.Registry.Device(ctx, id)
	if err != nil {
		return caller{}, fmt.Errorf("read device %s: %w", id, err)
	}
	if registry.Out(d.State) {
		return caller{}, refuseRevoked(d)
	}
	// Once more: the connection may be older than the revocation.
	if err := CheckPeer(ctx, a.Registry, cert, a.Now()); err != nil {
		return caller{}, refuse(http.StatusForbidden, "certificate", err.Error(), "recover with "+wire.PathEnroll)
	}
	return caller{device: d, cert: cert}, nil
}

// byTicket accepts whoever knows the ticket's secret. Only the TPM that holds EK
// and AK could recover it, so from here on the ticket's AK is the device's. Without a
// TPM the secret is a signature by the first key.
func (a *api) byTicket(ctx context.Context, id, secret string) (caller, error) {
	wrong := refuse(http.StatusUnauthorized, "ticket", "the ticket is unknown, used or expired", "POST "+wire.PathEnroll+" again")
	ticket, err := a.Registry.Ticket(ctx, id, a.Now())
	if errors.Is(err, registry.ErrNotFound) {
		return caller{}, wrong
	}
	if err != nil {
		return caller{}, fmt.Errorf("read ticket: %w", err)
	}
	d, err := a.Registry.Device(ctx, ticket.Device)
	if err != nil {
		return caller{}, fmt.Errorf("read device %s: %w", ticket.Device, err)
	}
	if !a.opens(ticket, d, secret) {
		return caller{}, wrong
	}
	isAbout(ctx, ticket.Device)
	if registry.Out(d.State) {
		return caller{}, refuseRevoked(d)
	}
	if !bytes.Equal(d.AKPublic, ticket.AKPublic) {
		if d, err = a.newAK(ctx, d, ticket); err != nil {
			return caller{}, err
		}
	}
	return caller{device: d, ticket: &ticket}, nil
}

func sameHash(secret []byte, hash [32]byte) bool {
	sum := sha256.Sum256(secret)
	return subtle.ConstantTimeCompare(sum[:], hash[:]) == 1
}

// newAK takes over another attestation key of a known EK: the TPM was cleared or
// the disk replaced. That needs an operator again. What the machine's maker said of the
// old key is not true of the new one.
func (a *api) newAK(ctx context.Context, d registry.Device, t registry.Ticket) (registry.Device, error) {
	if d.State != registry.Pending {
		const why = "it shows a new attestation key: its TPM was cleared or its disk was replaced"
		// The state last: a cut before it makes the next request do all of this again.
		if err := a.shutOut(ctx, d.ID, "", why); err != nil {
			return d, err
		}
		if err := a.Registry.SetState(ctx, d.ID, registry.Pending, registry.Fleet, why, a.Now()); err != nil {
			return d, a.notIssued(ctx, d.ID, err)
		}
		a.note(ctx, d.ID, "ak.changed", registry.Warning, why+"; an operator has to approve it again")
	}
	if err := a.Registry.UpdateAK(ctx, d.ID, t.AKPublic, t.Machine); err != nil {
		return d, fmt.Errorf("store attestation key of %s: %w", d.ID, err)
	}
	return a.Registry.Device(ctx, d.ID)
}

// shutOut revokes all certificates of a device but one, and ends their sessions.
func (a *api) shutOut(ctx context.Context, id, exceptSerial, why string) error {
	revoked, err := a.Registry.RevokeCertificates(ctx, id, exceptSerial, why, a.Now())
	if err != nil {
		return fmt.Errorf("revoke certificates of %s: %w", id, err)
	}
	if len(revoked) > 0 {
		a.Drop(id)
		a.Drop(wire.QuarantineID(id))
	}
	return nil
}

func refuseRevoked(d registry.Device) error {
	return refuse(http.StatusForbidden, "revoked", "device "+d.ID+" was "+d.State, "ask the operator of this fleet")
}
