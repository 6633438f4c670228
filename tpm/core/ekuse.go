package core

import (
	"errors"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// UseEK runs a command that decrypts by the EK: with what authorises that, and in a
// session salted to the EK that encrypts the answer. If another key is at the EK's
// persistent handle, it runs again with the right one. ErrReplaced if the chip has
// another EK.
func (c *Chip) UseEK(ek *EK, command func(key tpm2.AuthHandle, more ...tpm2.Session) error) error {
	obj, place, err := c.o.ekByName(ek)
	if err != nil {
		return err
	}
	err = c.useEK(obj, command)
	var refused tpm2.TPMRC
	if errors.As(err, &refused) {
		retry, lookErr := c.o.distrustEK(place, obj)
		if lookErr != nil {
			return lookErr
		}
		if retry {
			return c.UseEK(ek, command)
		}
	}
	return err
}

// useEK prepares one policy session for keys by low-range templates; for high-range
// ones the EK's empty password and a session that only encrypts. A session opens when
// it is used, and the chip flushes it with the command.
func (c *Chip) useEK(obj *Object, command func(tpm2.AuthHandle, ...tpm2.Session) error) error {
	ek, err := c.o.use(obj)
	if err != nil {
		return err
	}
	key := tpm2.AuthHandle{Handle: ek.Handle, Name: ek.Name, Auth: tpm2.PasswordAuth(nil)}
	options := []tpm2.AuthOption{tpm2.Salted(ek.Handle, obj.public), tpm2.AESEncryption(128, tpm2.EncryptOut)}
	if obj.public.ObjectAttributes.UserWithAuth {
		session := tpm2.HMAC(tpm2.TPMAlgSHA256, 16, options...)
		defer c.o.flushSession(session)
		return command(key, session)
	}
	policy := func(chip transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
		endorsement := c.o.hierarchy(tpm2.TPMRHEndorsement)
		defer c.o.flushSession(endorsement.Auth)
		_, err := tpm2.PolicySecret{AuthHandle: endorsement, PolicySession: session, NonceTPM: nonce}.Execute(chip)
		return err
	}
	key.Auth = tpm2.Policy(obj.public.NameAlg, 16, policy, options...)
	defer c.o.flushSession(key.Auth)
	return command(key)
}

// flushSession removes a session that is still open because something failed on
// the way: the library forgets those whose policy was not satisfied.
func (o *op) flushSession(session tpm2.Session) { (&Chip{o: o}).Flush(session.Handle()) }
