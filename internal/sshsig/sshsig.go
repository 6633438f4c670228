// Package sshsig verifies SSH signatures over messages, as `ssh-keygen -Y sign` makes
// them (OpenSSH, PROTOCOL.sshsig): by ed25519, ECDSA P-256
// and P-384, RSA with SHA-2, and FIDO2 keys that were touched.
//
// A signature says that the holder of a key signed these bytes for this
// namespace. Whether that key may say anything is for the caller to decide.
package sshsig

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
)

// MaxArmored is the longest armored signature that is looked at, in bytes. One by
// an RSA key of 8192 bits, the largest accepted, takes about 3,000.
const MaxArmored = 4 << 10

const (
	magic   = "SSHSIG"
	version = 1
	begin   = "-----BEGIN SSH SIGNATURE-----"
	end     = "-----END SSH SIGNATURE-----"
)

// Verify checks that armored is a signature over message for namespace and
// returns the key that made it.
func Verify(armored, message []byte, namespace string) (Key, error) {
	blob, err := dearmor(armored)
	if err != nil {
		return Key{}, fmt.Errorf("read SSH signature: %w", err)
	}
	s, err := parse(blob)
	if err != nil {
		return Key{}, fmt.Errorf("read SSH signature: %w", err)
	}
	if s.namespace != namespace {
		return Key{}, fmt.Errorf("signature is for namespace %q, not %q", s.namespace, namespace)
	}
	key, err := parseKey(s.key)
	if err != nil {
		return Key{}, fmt.Errorf("read signer's key: %w", err)
	}
	signed, err := toSign(message, namespace, s.hash)
	if err != nil {
		return Key{}, err
	}
	if err := key.verify(signed, s.signature); err != nil {
		return Key{}, fmt.Errorf("check signature by %s: %w", key.Fingerprint(), err)
	}
	return key, nil
}

// toSign is PROTOCOL.sshsig section 3, "Signed Data, of which the signature goes
// into the blob above".
func toSign(message []byte, namespace, hash string) ([]byte, error) {
	switch hash {
	case "sha512":
		sum := sha512.Sum512(message)
		return preamble(namespace, hash, sum[:]), nil
	case "sha256":
		sum := sha256.Sum256(message)
		return preamble(namespace, hash, sum[:]), nil
	}
	return nil, fmt.Errorf("hash %q is not sha256 or sha512", hash)
}

func preamble(namespace, hash string, sum []byte) []byte {
	b := appendString([]byte(magic), namespace)
	b = appendString(b, "") // reserved
	b = appendString(b, hash)
	return appendString(b, sum)
}

type blob struct {
	key             []byte
	namespace, hash string
	signature       []byte
}

// parse reads PROTOCOL.sshsig section 2, "Blob format". The reserved string must
// be ignored by the standard; since it is signed and nobody fills it, one that is
// not empty is refused.
func parse(data []byte) (blob, error) {
	rest, ok := bytes.CutPrefix(data, []byte(magic))
	if !ok {
		return blob{}, errors.New("it does not begin with SSHSIG")
	}
	r := reader{rest: rest}
	number := r.uint32()
	b := blob{key: r.string(), namespace: string(r.string())}
	reserved := r.string()
	b.hash, b.signature = string(r.string()), r.string()
	if err := r.finish(); err != nil {
		return blob{}, err
	}
	if number != version {
		return blob{}, fmt.Errorf("version is %d, not %d", number, version)
	}
	if b.namespace == "" || len(reserved) != 0 {
		return blob{}, errors.New("namespace is empty or the reserved field is not")
	}
	return b, nil
}

func dearmor(armored []byte) ([]byte, error) {
	if len(armored) > MaxArmored {
		return nil, fmt.Errorf("longer than %d bytes", MaxArmored)
	}
	text, ok := bytes.CutPrefix(armored, []byte(begin))
	if !ok {
		return nil, errors.New("no line " + begin)
	}
	text, ok = bytes.CutSuffix(bytes.TrimRight(text, "\r\n"), []byte(end))
	if !ok {
		return nil, errors.New("no last line " + end)
	}
	data, err := base64.StdEncoding.Strict().DecodeString(string(text))
	if err != nil {
		return nil, fmt.Errorf("decode base64: %w", err)
	}
	return data, nil
}
