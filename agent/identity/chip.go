package identity

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm"
)

// chip are the keys of a device with a TPM.
type chip struct {
	id     *Identity
	ek     ekRecord
	chosen *tpm.EK // read by New for the choice, so that enrolling need not read it again; else nil
	ak     *tpm.Key
	newAK  bool // the fleet has not seen this AK yet
	noIAK  bool // the maker's attestation key refused; under Identity.exchange
}

func (c *chip) name() []byte { return c.ek.Name }
func (c *chip) by() string   { return "EK and AK" }

// loadEK uses the recorded choice of endorsement key, or makes and records it.
func (c *chip) loadEK(ctx context.Context) error {
	found, err := c.id.store.readEK()
	if err != nil {
		return err
	}
	if found != nil {
		c.ek = *found
		return nil
	}
	ek, err := c.id.cfg.TPM.EK(ctx, "")
	if err != nil {
		return fmt.Errorf("find endorsement key: %w", err)
	}
	c.ek, c.chosen = ekRecord{Version: 1, Kind: ek.Kind, Name: ek.Name}, ek
	if _, err := os.Lstat(c.id.store.path(firstFile)); err == nil {
		c.id.cfg.Event("identity.tpm-found", "this gateway had software keys and has a TPM now: it enrols with that as "+c.id.Device()+", and never without one again")
	}
	return c.id.store.writeEK(c.ek)
}

// checkEK tells a TPM that was exchanged from one that was cleared. With another chip
// this is another device, which its fleet does not know yet.
func (c *chip) checkEK(ctx context.Context) error {
	ek, err := c.id.cfg.TPM.EK(ctx, "")
	if err != nil {
		return fmt.Errorf("find endorsement key: %w", err)
	}
	if ek.Kind == c.ek.Kind && bytes.Equal(ek.Name, c.ek.Name) {
		return nil
	}
	before := c.id.Device()
	c.ek, c.chosen = ekRecord{Version: 1, Kind: ek.Kind, Name: ek.Name}, ek
	c.id.cfg.Event("identity.tpm-exchanged", "the TPM of "+before+" is not in this machine any more; it enrols as "+c.id.Device())
	return c.id.store.writeEK(c.ek)
}

// loadAK loads the attestation key. One that is lost, damaged or of a TPM that was
// cleared is made anew: the fleet then asks an operator.
func (c *chip) loadAK(ctx context.Context) error {
	pem, err := c.id.store.readAK()
	if err == nil && pem != nil {
		if c.ak, err = c.id.cfg.TPM.LoadKey(ctx, pem); err == nil {
			return nil
		}
	}
	if err != nil {
		if !errors.Is(err, tpm.ErrDamaged) && !errors.Is(err, tpm.ErrReplaced) && !errors.Is(err, fsx.ErrDamaged) {
			return fmt.Errorf("load attestation key: %w", err)
		}
		if errors.Is(err, tpm.ErrReplaced) {
			if err := c.checkEK(ctx); err != nil {
				return err
			}
		}
		c.id.cfg.Event("identity.ak-lost", "the attestation key can't be used any more and is made anew: "+err.Error())
	}
	if c.ak, err = c.id.cfg.TPM.CreateKey(ctx, tpm.AK); err != nil {
		return fmt.Errorf("create attestation key: %w", err)
	}
	c.newAK = true
	return c.id.store.writeAK(c.ak.PEM())
}

func (c *chip) create(ctx context.Context) (Key, error) {
	key, err := c.id.cfg.TPM.CreateKey(ctx, tpm.Operational)
	if err != nil { // a nil *tpm.Key would be a Key that is not nil
		return nil, err
	}
	return key, nil
}

func (c *chip) load(ctx context.Context, pem []byte) (Key, error) {
	key, err := c.id.cfg.TPM.LoadKey(ctx, pem)
	if err != nil {
		return nil, err
	}
	return key, nil
}

func (c *chip) certify(ctx context.Context, key Key, csr []byte) (proof wire.KeyProof, err error) {
	own, ok := key.(*tpm.Key)
	if !ok {
		return proof, errors.New("the key is not the TPM's")
	}
	proof.Public = own.TPMPublic()
	proof.Certify, proof.Signature, err = c.id.cfg.TPM.Certify(ctx, c.ak, own, wire.CertifyQualifyingData(c.id.cfg.Fleet().Fleet, csr))
	return proof, err
}

func (c *chip) introduce(ctx context.Context, csr []byte, proof wire.KeyProof) (request, error) {
	ek, err := c.endorsementKey(ctx)
	if err != nil {
		return request{}, err
	}
	ask := wire.EnrollRequest{
		Version: 1, EKCertificate: ek.Certificate, EKChain: ek.Chain, EKPublic: ek.Public, AKPublic: c.ak.TPMPublic(),
		CSR: csr, Key: proof, Model: c.id.cfg.Model, Hostname: c.id.cfg.Hostname, Software: c.id.cfg.Software, Token: c.id.token(),
	}
	if ask.IAK, err = c.makersWord(ctx, ek); err != nil {
		return request{}, err
	}
	var challenge wire.EnrollChallenge
	fits := func() error { return c.id.isForUs(challenge.Version, challenge.Device) }
	if err := c.id.postJSON(ctx, request{client: c.id.anyone.http, path: wire.PathEnroll}, ask, &challenge, fits); err != nil {
		return request{}, c.id.tokenJudged(err)
	}
	secret, err := c.id.cfg.TPM.Activate(ctx, ek, c.ak, challenge.CredentialBlob, challenge.EncryptedSecret)
	if err != nil {
		return request{}, fmt.Errorf("activate credential: %w", err)
	}
	return request{client: c.id.anyone.http, user: challenge.Ticket, secret: hex.EncodeToString(secret)}, nil
}

func (c *chip) endorsementKey(ctx context.Context) (*tpm.EK, error) {
	if ek := c.chosen; ek != nil {
		c.chosen = nil // a second enrolment reads it anew
		return ek, nil
	}
	ek, err := c.id.cfg.TPM.EK(ctx, c.ek.Kind)
	if err != nil {
		return nil, fmt.Errorf("read endorsement key: %w", err)
	}
	return ek, nil
}

var _ keys = (*chip)(nil)
