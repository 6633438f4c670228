package tpm

import (
	"context"
	"errors"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Activate recovers a credential that was made for this chip's EK and the Name of
// ak (TPM 2.0 Part 1, 24): who can do that holds both. blob and secret are the
// contents of TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET. The credential crosses
// the bus encrypted, in a session salted to the EK. Errors: ErrReplaced if the chip
// has another EK, ErrPolicy if the credential was made for another key.
func (t *TPM) Activate(ctx context.Context, ek *EK, ak *Key, blob, secret []byte) ([]byte, error) {
	if ek == nil || ak == nil || ak.t != t {
		return nil, errors.New("activate credential: needs an EK and a key of this connection")
	}
	if len(blob) > maxKeyPart || len(secret) > maxKeyPart {
		return nil, errors.New("activate credential: it is too large")
	}
	var credential []byte
	err := t.do(ctx, "activate credential", func(o *op) (err error) {
		credential, err = o.activate(ek, ak, blob, secret)
		return err
	})
	if err != nil {
		return nil, err
	}
	return credential, nil
}

func (o *op) activate(ek *EK, ak *Key, blob, secret []byte) ([]byte, error) {
	if _, err := o.useKey(ak); err != nil {
		return nil, err
	}
	obj, place, err := o.ekByName(ek)
	if err != nil {
		return nil, err
	}
	credential, err := o.activateWith(obj, place, ak, blob, secret)
	var refused tpm2.TPMRC
	if errors.As(err, &refused) {
		retry, lookErr := o.distrustEK(place, obj)
		if lookErr != nil {
			return nil, lookErr
		}
		if retry {
			return o.activate(ek, ak, blob, secret)
		}
	}
	if errors.Is(err, tpm2.TPMRCIntegrity) || errors.Is(err, tpm2.TPMRCValue) || errors.Is(err, tpm2.TPMRCSize) {
		return nil, classify(ErrPolicy, "the credential was made for another key or chip", err)
	}
	return credential, err
}

func (o *op) activateWith(obj *object, place ekPlace, ak *Key, blob, secret []byte) ([]byte, error) {
	ekHandle, err := o.use(obj)
	if err != nil {
		return nil, err
	}
	akHandle, err := o.useKey(ak)
	if err != nil {
		return nil, err
	}
	auth, extra := o.ekSession(ekHandle, obj.public, place)
	defer o.flushSession(auth)
	for _, session := range extra {
		defer o.flushSession(session)
	}
	rsp, err := tpm2.ActivateCredential{
		ActivateHandle: password(akHandle),
		KeyHandle:      tpm2.AuthHandle{Handle: ekHandle.Handle, Name: ekHandle.Name, Auth: auth},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: blob},
		Secret:         tpm2.TPM2BEncryptedSecret{Buffer: secret},
	}.Execute(o, extra...)
	if err != nil {
		return nil, err
	}
	return rsp.CertInfo.Buffer, nil
}

// ekSession prepares what authorises the use of an EK and encrypts the answer: one
// policy session for low-range templates; for high-range ones the EK's empty
// password and a session that only encrypts. A session opens when it is used, and
// the chip flushes it with the command.
func (o *op) ekSession(ek tpm2.NamedHandle, public tpm2.TPMTPublic, place ekPlace) (auth tpm2.Session, extra []tpm2.Session) {
	options := []tpm2.AuthOption{
		tpm2.Salted(ek.Handle, public), tpm2.AESEncryption(128, tpm2.EncryptOut),
	}
	if !place.policy {
		return tpm2.PasswordAuth(nil), []tpm2.Session{tpm2.HMAC(tpm2.TPMAlgSHA256, 16, options...)}
	}
	policy := func(chip transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
		endorsement := o.hierarchy(tpm2.TPMRHEndorsement)
		defer o.flushSession(endorsement.Auth)
		_, err := tpm2.PolicySecret{
			AuthHandle:    endorsement,
			PolicySession: session,
			NonceTPM:      nonce,
		}.Execute(chip)
		return err
	}
	return tpm2.Policy(tpm2.TPMAlgSHA256, 16, policy, options...), nil
}

// flushSession removes a session that is still open because something failed on
// the way: the library forgets those whose policy was not satisfied.
func (o *op) flushSession(session tpm2.Session) { (&Chip{o: o}).Flush(session.Handle()) }
