package sshsig

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
)

// userPresent is the flag of a FIDO2 signature that says somebody touched the key.
const userPresent = 0x01

var errSignature = errors.New("it does not fit the message")

// verify checks a signature in SSH wire form (string algorithm, string or more
// that the algorithm defines) over data.
func (k Key) verify(data, signature []byte) error {
	r := reader{rest: signature}
	algorithm := string(r.string())
	if k.kind == typeRSA {
		return k.verifyRSA(&r, algorithm, data)
	}
	if algorithm != k.kind {
		return fmt.Errorf("signature of type %.40q by a key of type %s", algorithm, k.kind)
	}
	body := r.string()
	if k.kind == typeSKEd25519 || k.kind == typeSKP256 {
		var err error
		if data, err = k.authenticated(&r, data); err != nil {
			return err
		}
	}
	if err := r.finish(); err != nil {
		return err
	}
	if k.ed25519 != nil {
		if !ed25519.Verify(k.ed25519, data, body) {
			return errSignature
		}
		return nil
	}
	return k.verifyECDSA(body, data)
}

// authenticated returns what a FIDO2 key signs for data (OpenSSH, PROTOCOL.u2f,
// "SSH U2F signatures"): the authenticator signs for its application, with flags
// and a counter, over the hash of data.
func (k Key) authenticated(r *reader, data []byte) ([]byte, error) {
	flags, counter := r.byte(), r.uint32()
	if flags&userPresent == 0 {
		return nil, errors.New("the security key was not touched")
	}
	application, message := sha256.Sum256([]byte(k.application)), sha256.Sum256(data)
	b := append(application[:], flags)
	b = appendUint32(b, counter)
	return append(b, message[:]...), nil
}

// verifyECDSA is RFC 5656, section 3.1.2.
func (k Key) verifyECDSA(body, data []byte) error {
	r := reader{rest: body}
	a, b := r.mpint(), r.mpint()
	if err := r.finish(); err != nil {
		return err
	}
	var digest []byte
	if k.kind == typeP384 {
		sum := sha512.Sum384(data)
		digest = sum[:]
	} else {
		sum := sha256.Sum256(data)
		digest = sum[:]
	}
	if k.ecdsa == nil || !ecdsa.Verify(k.ecdsa, digest, a, b) {
		return errSignature
	}
	return nil
}

// verifyRSA is RFC 8332, section 3. SHA-1, which "ssh-rsa" means in a signature,
// is refused.
func (k Key) verifyRSA(r *reader, algorithm string, data []byte) error {
	body := r.string()
	if err := r.finish(); err != nil {
		return err
	}
	var hash crypto.Hash
	var digest []byte
	switch algorithm {
	case "rsa-sha2-256":
		sum := sha256.Sum256(data)
		hash, digest = crypto.SHA256, sum[:]
	case "rsa-sha2-512":
		sum := sha512.Sum512(data)
		hash, digest = crypto.SHA512, sum[:]
	default:
		return fmt.Errorf("signature of type %.40q by an RSA key", algorithm)
	}
	if rsa.VerifyPKCS1v15(k.rsa, hash, digest, body) != nil {
		return errSignature
	}
	return nil
}
