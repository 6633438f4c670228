package tpm

import (
	"context"
	"errors"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/tpm/core"
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
	err := t.Do(ctx, "activate credential", func(c *Chip) (err error) {
		credential, err = ak.activate(c, ek, blob, secret)
		return err
	})
	if err != nil {
		return nil, err
	}
	return credential, nil
}

func (k *Key) activate(c *Chip, ek *EK, blob, secret []byte) (credential []byte, err error) {
	if _, err := k.use(c); err != nil {
		return nil, err
	}
	err = c.UseEK(ek, func(key tpm2.AuthHandle, more ...tpm2.Session) error {
		own, err := k.use(c)
		if err != nil {
			return err
		}
		rsp, err := tpm2.ActivateCredential{
			ActivateHandle: password(own),
			KeyHandle:      key,
			CredentialBlob: tpm2.TPM2BIDObject{Buffer: blob},
			Secret:         tpm2.TPM2BEncryptedSecret{Buffer: secret},
		}.Execute(c, more...)
		if err == nil {
			credential = rsp.CertInfo.Buffer
		}
		return err
	})
	if errors.Is(err, tpm2.TPMRCIntegrity) || errors.Is(err, tpm2.TPMRCValue) || errors.Is(err, tpm2.TPMRCSize) {
		return nil, core.Classify(ErrPolicy, "the credential was made for another key or chip", err)
	}
	return credential, err
}
