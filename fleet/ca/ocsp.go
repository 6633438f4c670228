package ca

import (
	"bytes"
	"crypto"
	"crypto/sha1" // names an issuer in OCSP, secures nothing
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"time"

	"golang.org/x/crypto/ocsp"
)

// Why an OCSP request can't be answered; RefuseOCSP tells the peer.
var (
	ErrRequest = errors.New("this is no OCSP request")
	ErrForeign = errors.New("the OCSP request is about certificates of another authority")
)

// Question is an OCSP request (RFC 6960): whether a certificate is good.
type Question struct {
	Issuer *x509.Certificate // the intermediate that is asked about
	Serial *big.Int
	hash   crypto.Hash
}

// ParseOCSP reads a request in DER: ErrRequest, ErrForeign.
func (c *CA) ParseOCSP(der []byte) (Question, error) {
	request, err := ocsp.ParseRequest(der)
	if err != nil {
		return Question{}, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	for _, i := range c.Intermediates() {
		name, key, err := issuerHashes(i.Cert, request.HashAlgorithm)
		if err != nil {
			return Question{}, err
		}
		if bytes.Equal(name, request.IssuerNameHash) && bytes.Equal(key, request.IssuerKeyHash) {
			return Question{Issuer: i.Cert, Serial: request.SerialNumber, hash: request.HashAlgorithm}, nil
		}
	}
	return Question{}, ErrForeign
}

// issuerHashes are those of CertID (RFC 6960, section 4.1.1).
func issuerHashes(cert *x509.Certificate, alg crypto.Hash) (name, key []byte, err error) {
	var spki struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(cert.RawSubjectPublicKeyInfo, &spki); err != nil {
		return nil, nil, fmt.Errorf("decode key of %s: %w", cert.Subject.CommonName, err)
	}
	switch alg {
	case crypto.SHA1:
		n, k := sha1.Sum(cert.RawSubject), sha1.Sum(spki.Key.Bytes)
		return n[:], k[:], nil
	case crypto.SHA256:
		n, k := sha256.Sum256(cert.RawSubject), sha256.Sum256(spki.Key.Bytes)
		return n[:], k[:], nil
	}
	return nil, nil, fmt.Errorf("%w: hash %s", ErrRequest, alg)
}

// Answers to a Question.
const (
	Good    = ocsp.Good
	Revoked = ocsp.Revoked
	Unknown = ocsp.Unknown // this authority never issued it
)

// OCSP signs the answer to q, good for life from now; e is told if status is
// Revoked. The intermediate signs itself (RFC 6960, section 4.2.2.2).
func (c *CA) OCSP(q Question, status int, e Entry, now time.Time, life time.Duration) ([]byte, error) {
	by, err := c.find(q.Issuer)
	if err != nil {
		return nil, fmt.Errorf("make OCSP response: %w", err)
	}
	answer := ocsp.Response{
		Status: status, SerialNumber: q.Serial, ThisUpdate: now.Add(-backdate), NextUpdate: now.Add(life), IssuerHash: q.hash,
	}
	if status == Revoked {
		answer.RevokedAt, answer.RevocationReason = e.At, e.Reason
	}
	der, err := ocsp.CreateResponse(by.cert, by.cert, answer, by.key)
	if err != nil {
		return nil, fmt.Errorf("make OCSP response: %w", err)
	}
	return der, nil
}

// RefuseOCSP is the answer to a request that ParseOCSP refused (RFC 6960, section
// 2.3); nil if err says nothing of the request.
func RefuseOCSP(err error) []byte {
	switch {
	case errors.Is(err, ErrRequest):
		return ocsp.MalformedRequestErrorResponse
	case errors.Is(err, ErrForeign):
		return ocsp.UnauthorizedErrorResponse
	}
	return nil
}
