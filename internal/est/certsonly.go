package est

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/gatewarden/gatewarden/internal/wire"
)

// contentInfo and signedData are RFC 5652, sections 3 and 5.1, as far as a
// message without content and signers fills them.
type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"explicit,tag:0"`
}

type signedData struct {
	Version      int
	Digests      asn1.RawValue // SET
	Content      encapsulated
	Certificates asn1.RawValue `asn1:"optional,tag:0"`
	CRLs         asn1.RawValue `asn1:"optional,tag:1"`
	Signers      asn1.RawValue // SET
}

type encapsulated struct {
	Type asn1.ObjectIdentifier
}

func oidData() asn1.ObjectIdentifier       { return asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1} }
func oidSignedData() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2} }

// EncodeCertsOnly returns a certs-only CMS message (RFC 5652 SignedData without
// content and signers) in DER.
func EncodeCertsOnly(certs []*x509.Certificate) ([]byte, error) {
	var raw []byte
	for _, c := range certs {
		raw = append(raw, c.Raw...)
	}
	empty := asn1.RawValue{Tag: asn1.TagSet, IsCompound: true}
	inner, err := asn1.Marshal(signedData{
		Version: 1, Digests: empty, Content: encapsulated{oidData()},
		Certificates: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: raw},
		Signers:      empty,
	})
	if err != nil {
		return nil, fmt.Errorf("encode certs-only message: %w", err)
	}
	der, err := asn1.Marshal(contentInfo{
		Type:    oidSignedData(),
		Content: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: inner},
	})
	if err != nil {
		return nil, fmt.Errorf("encode certs-only message: %w", err)
	}
	return der, nil
}

// DecodeCertsOnly returns the certificates of a certs-only CMS message in DER, in
// the order in which they stand there: 1 to wire.MaxCertificates. It says nothing
// about who issued them.
func DecodeCertsOnly(der []byte) ([]*x509.Certificate, error) {
	var outer contentInfo
	if rest, err := asn1.Unmarshal(der, &outer); err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("decode CMS message (%d bytes behind it): %w", len(rest), orTrailing(err))
	}
	if !outer.Type.Equal(oidSignedData()) {
		return nil, fmt.Errorf("decode CMS message: type %s, want signed data", outer.Type)
	}
	var inner signedData
	if rest, err := asn1.Unmarshal(outer.Content.Bytes, &inner); err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("decode signed data (%d bytes behind it): %w", len(rest), orTrailing(err))
	}
	if !inner.Content.Type.Equal(oidData()) || len(inner.Signers.Bytes) > 0 {
		return nil, errors.New("decode signed data: not a certs-only message")
	}
	return splitCertificates(inner.Certificates.Bytes)
}

func splitCertificates(rest []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for len(rest) > 0 {
		var one asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &one); err != nil {
			return nil, fmt.Errorf("decode certificate %d: %w", len(certs), err)
		}
		if len(certs) == wire.MaxCertificates || len(one.FullBytes) > wire.MaxCertificate {
			return nil, fmt.Errorf("decode certificate %d: more than %d, or larger than %d bytes", len(certs), wire.MaxCertificates, wire.MaxCertificate)
		}
		cert, err := x509.ParseCertificate(one.FullBytes)
		if err != nil {
			return nil, fmt.Errorf("decode certificate %d: %w", len(certs), err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("decode signed data: no certificate in it")
	}
	return certs, nil
}

func orTrailing(err error) error {
	if err == nil {
		err = errors.New("trailing data")
	}
	return err
}
