package identity

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/gatewarden/gatewarden/internal/wire"
)

// enroll obtains a certificate by what the device itself can prove: the first one,
// and every one after the device lost what it had.
func (i *Identity) enroll(ctx context.Context, why string) error {
	key, csr, proof, err := i.newKey(ctx)
	if err != nil {
		return err
	}
	ticket, err := i.keys.introduce(ctx, csr, proof)
	if err != nil {
		return err
	}
	chain, err := i.collectCertificate(ctx, ticket, csr, keyHash(key))
	if errors.Is(err, errNewToken) {
		return i.enroll(ctx, why)
	}
	if err != nil {
		return err
	}
	i.forgetToken() // it was used, or not needed
	return i.adopt(ctx, key, chain, why)
}

// isForUs checks what an answer is, and which device the fleet takes this one for.
func (i *Identity) isForUs(version int, device string) error {
	switch {
	case version != 1:
		return fmt.Errorf("it is of version %d, not 1", version)
	case device != i.Device():
		return fmt.Errorf("the fleet calls this device %s, it is %s: check trust/fleet.json", device, i.Device())
	}
	return nil
}

func isChallenge(c *wire.Challenge) error {
	if len(c.Nonce) != wire.NonceSize {
		return fmt.Errorf("the nonce of a challenge has %d bytes, not %d", len(c.Nonce), wire.NonceSize)
	}
	return nil
}

// collectCertificate attests and asks for the certificate until an operator or
// the gate has decided. That the ticket has ended is the fleet's to say: this
// machine's clock may be wrong.
func (i *Identity) collectCertificate(ctx context.Context, ticket request, csr []byte, claim string) ([]*x509.Certificate, error) {
	if err := i.attest(ctx, ticket, claim); err != nil {
		return nil, err
	}
	for asked, stale := 0, false; ; asked++ {
		r := ticket
		r.path = wire.PathSimpleEnroll
		chain, err := i.simpleEnroll(ctx, r, csr)
		var wait *pending
		switch {
		case err == nil:
			return chain, nil
		case errors.As(err, &wait) && wait.challenge != nil && !stale:
			// Minutes passed, or the approval came after the verdict: once more.
			if err := i.answer(ctx, ticket, *wait.challenge, claim); err != nil {
				return nil, err
			}
			stale = true
		case errors.As(err, &wait):
			i.setPhase("waiting for an operator to approve " + i.Device())
			if err := i.awaitApproval(ctx, max(wait.after, patience(asked))); err != nil {
				return nil, err
			}
			stale = false
		default:
			return nil, err
		}
	}
}

// renew replaces the certificate with the credential in use: attest, new key,
// simplereenroll.
func (i *Identity) renew(ctx context.Context, why string) error {
	current, ok := i.Current()
	if !ok {
		return errors.New("renew: the device has no certificate")
	}
	if err := i.attest(ctx, request{client: current.tls.http}, current.SPKI()); err != nil {
		return err
	}
	key, csr, proof, err := i.newKey(ctx)
	if err != nil {
		return err
	}
	encoded, err := json.Marshal(proof)
	if err != nil {
		return fmt.Errorf("encode key proof: %w", err)
	}
	chain, err := i.simpleEnroll(ctx, request{
		client: current.tls.http, path: wire.PathSimpleReenroll, proof: base64.StdEncoding.EncodeToString(encoded),
	}, csr)
	if err != nil {
		return err
	}
	return i.adopt(ctx, key, chain, why)
}

// newKey makes an operational key and proves where it lives. A key that a cut or
// a failure left behind is used again.
func (i *Identity) newKey(ctx context.Context) (key Key, csr []byte, proof wire.KeyProof, err error) {
	if i.unstarted == nil {
		if i.unstarted, err = i.pendingKey(ctx); err != nil {
			return nil, nil, wire.KeyProof{}, err
		}
	}
	key = i.unstarted
	csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: i.Device()}, SignatureAlgorithm: x509.ECDSAWithSHA256,
	}, key)
	if err != nil {
		return nil, nil, wire.KeyProof{}, fmt.Errorf("sign certificate request: %w", err)
	}
	if proof, err = i.keys.certify(ctx, key, csr); err != nil {
		return nil, nil, wire.KeyProof{}, fmt.Errorf("certify operational key: %w", err)
	}
	i.Saw(proof.Certify)
	i.certified = i.seen.Load()
	return key, csr, proof, nil
}

func (i *Identity) pendingKey(ctx context.Context) (Key, error) {
	if p, err := i.store.readPair(nextFile); err == nil && p.key != nil && len(p.chain) == 0 {
		if key, err := i.keys.load(ctx, p.key); err == nil {
			return key, nil
		}
	}
	key, err := i.keys.create(ctx)
	if err != nil {
		return nil, fmt.Errorf("create operational key: %w", err)
	}
	if err := i.store.writePair(nextFile, pair{key: key.PEM()}); err != nil {
		i.notStored("new operational key", err)
	}
	return key, nil
}

// adopt makes a new pair the one in use. next.pem holds the whole pair before the
// handshake that proves it, so that a cut from here on loses nothing.
func (i *Identity) adopt(ctx context.Context, key Key, chain []*x509.Certificate, why string) error {
	c, err := i.credential(key, chain)
	if err != nil {
		return fmt.Errorf("check the issued certificate: %w", err)
	}
	i.remember(c.Leaf(), why)
	if err := i.store.writePair(nextFile, pair{key: key.PEM(), chain: chain}); err != nil {
		i.notStored("new credential", err)
	}
	i.unproven, i.unstarted = c, nil
	return i.promote(ctx)
}

// promote proves the credential that waits for it and puts it into use.
func (i *Identity) promote(ctx context.Context) error {
	c := i.unproven
	if err := i.prove(ctx, c); err != nil {
		return err
	}
	if err := i.store.writePair(currentFile, pair{key: c.Key.PEM(), chain: c.Chain}); err != nil {
		i.notStored("credential", err)
	} else if err := i.store.forgetNext(); err != nil {
		i.cfg.Log.Warn("drop leftovers of a renewal", "error", err)
	}
	i.unproven = nil
	select { // whoever kicked until now has this certificate as the answer
	case <-i.kick:
	default:
	}
	i.mu.Lock()
	old := i.current
	i.current, i.adopted = c, i.cfg.Counted()
	i.mu.Unlock()
	i.cfg.Changed(*c)
	if old != nil && old != c {
		old.tls.http.CloseIdleConnections()
		i.retire(old.Key)
	}
	return nil
}

// notStored is no reason to stay without a certificate: a full disk must not shut
// a device out. After a restart it proves itself again.
func (i *Identity) notStored(what string, err error) {
	i.cfg.Log.Error("store "+what, "error", err)
	i.cfg.Event("identity.not-stored", "the "+what+" could not be stored and is lost at a restart: "+err.Error())
}

// giveUp drops a credential that the fleet does not accept.
func (i *Identity) giveUp() {
	if c, ok := i.Current(); !ok || c.Key != i.unproven.Key {
		i.unload(i.unproven.Key)
	}
	i.unproven = nil
}

// retire unloads the key before last: the last one may still be signing in a
// handshake or receipt that began before the change.
func (i *Identity) retire(key Key) {
	if i.retired != nil {
		i.unload(i.retired)
	}
	i.retired = key
}

// attest answers a fresh challenge over HTTPS, claiming one key.
func (i *Identity) attest(ctx context.Context, r request, claim string) error {
	r.path = wire.PathChallenge
	var challenge wire.Challenge
	if err := i.postJSON(ctx, r, struct{}{}, &challenge, func() error { return isChallenge(&challenge) }); err != nil {
		return fmt.Errorf("get challenge: %w", err)
	}
	return i.answer(ctx, r, challenge, claim)
}

// answer sends evidence for a challenge and takes in the verdict.
func (i *Identity) answer(ctx context.Context, r request, challenge wire.Challenge, claim string) error {
	ev, err := i.cfg.Collect(ctx, challenge, claim)
	if err != nil {
		return err
	}
	i.Saw(ev.Quote)
	r.path = wire.PathEvidence
	var verdict wire.Verdict
	if err := i.postJSON(ctx, r, ev, &verdict, func() error { return i.isForUs(verdict.Version, verdict.Device) }); err != nil {
		return fmt.Errorf("send evidence: %w", err)
	}
	i.verdict = verdict
	i.cfg.Verdict(verdict)
	return nil
}
