package sshsig

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
)

// KeyOf returns the SSH form of an ed25519, ECDSA P-256 or P-384 public key.
func KeyOf(public crypto.PublicKey) (Key, error) {
	switch p := public.(type) {
	case ed25519.PublicKey:
		return parseKey(appendString(appendString([]byte(nil), typeEd25519), p))
	case *ecdsa.PublicKey:
		kind, curve := typeP256, "nistp256"
		if p.Curve == elliptic.P384() {
			kind, curve = typeP384, "nistp384"
		}
		point, err := p.Bytes()
		if err != nil {
			return Key{}, fmt.Errorf("encode key: %w", err)
		}
		return parseKey(appendString(appendString(appendString([]byte(nil), kind), curve), point))
	}
	return Key{}, fmt.Errorf("key of type %T is not ed25519 or ECDSA", public)
}

// Sign makes an armored signature over message for namespace, by an ed25519,
// ECDSA P-256 or P-384 key.
func Sign(signer crypto.Signer, message []byte, namespace string) ([]byte, error) {
	if namespace == "" {
		return nil, errors.New("sign message: namespace is empty")
	}
	key, err := KeyOf(signer.Public())
	if err != nil {
		return nil, fmt.Errorf("sign message: %w", err)
	}
	body, err := signBytes(signer, key.kind, ToSign(message, namespace))
	if err != nil {
		return nil, fmt.Errorf("sign message: %w", err)
	}
	return Armor(key, namespace, appendString(appendString([]byte(nil), key.kind), body)), nil
}

func signBytes(signer crypto.Signer, kind string, data []byte) ([]byte, error) {
	var hash crypto.Hash
	switch kind {
	case typeEd25519:
		return signer.Sign(rand.Reader, data, crypto.Hash(0))
	case typeP384:
		sum := sha512.Sum384(data)
		hash, data = crypto.SHA384, sum[:]
	default:
		sum := sha256.Sum256(data)
		hash, data = crypto.SHA256, sum[:]
	}
	der, err := signer.Sign(rand.Reader, data, hash)
	if err != nil {
		return nil, err
	}
	var pair struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &pair); err != nil {
		return nil, fmt.Errorf("decode signature: %w", err)
	}
	return appendMpint(appendMpint(nil, pair.R), pair.S), nil
}
