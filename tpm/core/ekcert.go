package core

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// certifies compares keys, without the 24 bytes of headers and algorithm before them:
// some makers write id-RSAES-OAEP there. A certificate that can't be parsed proves nothing and
// contradicts nothing: who relies on it decides.
func certifies(certificate []byte, public tpm2.TPMTPublic) bool {
	parsed, err := x509.ParseCertificate(certificate)
	if err != nil {
		return true
	}
	key, err := tpm2.Pub(public)
	if err != nil {
		return false
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	return err == nil && bytes.HasSuffix(parsed.RawSubjectPublicKeyInfo, spki[24:])
}

// certifiedPublic is the public area of the key in a certificate, made by a template.
func certifiedPublic(template tpm2.TPMTPublic, certificate []byte) (tpm2.TPMTPublic, error) {
	parsed, err := x509.ParseCertificate(certificate)
	if err != nil {
		return tpm2.TPMTPublic{}, fmt.Errorf("parse EK certificate: %w", err)
	}
	switch key := parsed.PublicKey.(type) {
	case *rsa.PublicKey:
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.Bytes()})
	case *ecdsa.PublicKey:
		point, err := key.Bytes() // 4, X, Y
		if err != nil {
			return tpm2.TPMTPublic{}, fmt.Errorf("read EK certificate: %w", err)
		}
		size := (key.Params().BitSize + 7) / 8
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1 : 1+size]},
			Y: tpm2.TPM2BECCParameter{Buffer: point[1+size:]},
		})
	default:
		return tpm2.TPMTPublic{}, fmt.Errorf("read EK certificate: key of type %T", key)
	}
	if !certifies(certificate, template) {
		return tpm2.TPMTPublic{}, fmt.Errorf("read EK certificate: its key does not fit the template")
	}
	return template, nil
}
