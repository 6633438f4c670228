// Package p256key keeps P-256 private keys as PKCS #8.
//
// Its promise: it reads what crypto/x509 writes for such a key, and nothing else.
// Reading by crypto/x509 would link RSA and all the other algorithms into the device binary.
package p256key

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
)

// New makes a key, and returns it as PKCS #8 in DER too.
func New() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return key, der, err
}

// Parse reads PKCS #8 (RFC 5958) with an ECPrivateKey (RFC 5915) on P-256 in it.
func Parse(der []byte) (*ecdsa.PrivateKey, error) {
	var outer struct {
		Version   int
		Algorithm pkix.AlgorithmIdentifier
		Key       []byte
	}
	var inner struct {
		Version int
		Scalar  []byte
		Curve   asn1.ObjectIdentifier `asn1:"optional,explicit,tag:0"`
		Public  asn1.BitString        `asn1:"optional,explicit,tag:1"`
	}
	if rest, err := asn1.Unmarshal(der, &outer); err != nil || len(rest) > 0 {
		return nil, errors.New("it is no PKCS #8 key")
	}
	if rest, err := asn1.Unmarshal(outer.Key, &inner); err != nil || len(rest) > 0 || outer.Version != 0 || inner.Version != 1 {
		return nil, errors.New("it is no EC key")
	}
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), inner.Scalar)
	if err != nil {
		return nil, err
	}
	// The algorithm names the curve; the public key is there twice.
	point, err := key.PublicKey.Bytes()
	if err != nil || !oidIsP256(outer.Algorithm) || string(inner.Public.RightAlign()) != string(point) {
		return nil, errors.New("it is no P-256 key, or its halves do not match")
	}
	return key, nil
}

func oidIsP256(a pkix.AlgorithmIdentifier) bool {
	var curve asn1.ObjectIdentifier
	rest, err := asn1.Unmarshal(a.Parameters.FullBytes, &curve)
	return err == nil && len(rest) == 0 && a.Algorithm.Equal(asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}) &&
		curve.Equal(asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7})
}
