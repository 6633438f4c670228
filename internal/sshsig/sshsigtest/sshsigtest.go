// Package sshsigtest makes SSH signatures, as `ssh-keygen -Y sign` does
// (PROTOCOL.sshsig). For tests only: what ships checks signatures and makes none.
package sshsigtest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
)

const lineSize = 70 // base64 characters in a line, as ssh-keygen has it

// Blob is the SSH form of an ed25519, ECDSA P-256 or P-384 public key, and the name
// of its kind.
func Blob(public crypto.PublicKey) (blob []byte, kind string, err error) {
	switch p := public.(type) {
	case ed25519.PublicKey:
		kind = "ssh-ed25519"
		return String(String(nil, kind), p), kind, nil
	case *ecdsa.PublicKey:
		curve := map[elliptic.Curve]string{elliptic.P256(): "nistp256", elliptic.P384(): "nistp384"}[p.Curve]
		point, err := p.Bytes()
		if err != nil || curve == "" {
			return nil, "", errors.Join(errors.New("the curve is not P-256 or P-384"), err)
		}
		kind = "ecdsa-sha2-" + curve
		return String(String(String(nil, kind), curve), point), kind, nil
	}
	return nil, "", fmt.Errorf("key of type %T is not ed25519 or ECDSA", public)
}

// Line is a public key as authorized_keys has it.
func Line(public crypto.PublicKey) (string, error) {
	blob, kind, err := Blob(public)
	return kind + " " + base64.StdEncoding.EncodeToString(blob), err
}

// Sign makes an armored signature over message for namespace.
func Sign(signer crypto.Signer, message []byte, namespace string) ([]byte, error) {
	if namespace == "" {
		return nil, errors.New("sign message: namespace is empty")
	}
	blob, kind, err := Blob(signer.Public())
	if err != nil {
		return nil, fmt.Errorf("sign message: %w", err)
	}
	body, err := Body(signer, kind, ToSign(message, namespace))
	if err != nil {
		return nil, fmt.Errorf("sign message: %w", err)
	}
	return Armor(blob, namespace, String(String(nil, kind), body)), nil
}

// ToSign is what a key signs for message, whose hash is SHA-512.
func ToSign(message []byte, namespace string) []byte {
	sum := sha512.Sum512(message)
	return String(String(String(String([]byte("SSHSIG"), namespace), ""), "sha512"), sum[:])
}

// Body signs data, in the form that SSH has for this kind of key.
func Body(signer crypto.Signer, kind string, data []byte) ([]byte, error) {
	hash, digest := crypto.SHA256, sha256.Sum256(data)
	sum := digest[:]
	switch kind {
	case "ssh-ed25519":
		return signer.Sign(rand.Reader, data, crypto.Hash(0))
	case "ecdsa-sha2-nistp384":
		long := sha512.Sum384(data)
		hash, sum = crypto.SHA384, long[:]
	}
	der, err := signer.Sign(rand.Reader, sum, hash)
	if err != nil {
		return nil, err
	}
	var pair struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &pair); err != nil {
		return nil, fmt.Errorf("decode signature: %w", err)
	}
	return mpint(mpint(nil, pair.R), pair.S), nil
}

// Armor makes an armored signature of one in its SSH form, over ToSign by the key.
func Armor(key []byte, namespace string, signature []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte("SSHSIG"), 1)
	b = String(String(String(String(String(b, key), namespace), ""), "sha512"), signature)
	text := base64.StdEncoding.EncodeToString(b)
	out := bytes.NewBufferString("-----BEGIN SSH SIGNATURE-----\n")
	for len(text) > 0 {
		n := min(lineSize, len(text))
		out.WriteString(text[:n] + "\n")
		text = text[n:]
	}
	out.WriteString("-----END SSH SIGNATURE-----\n")
	return out.Bytes()
}

// String appends a string of RFC 4251, section 5.
func String[T ~string | ~[]byte](b []byte, s T) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

func mpint(b []byte, n *big.Int) []byte {
	raw := n.Bytes()
	if len(raw) > 0 && raw[0] >= 0x80 {
		raw = append([]byte{0}, raw...)
	}
	return String(b, raw)
}
