package ca

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"time"
)

// Entry is one revoked certificate.
type Entry struct {
	Serial string // hex
	At     time.Time
	Reason int // RFC 5280, section 5.3.1; 0: not told
}

// List is a certificate revocation list to be.
type List struct {
	Revoked []Entry // of this intermediate; the caller chooses them
	Now     time.Time
	Life    time.Duration
	// Base makes it a delta CRL (RFC 5280, section 5.2.4): Revoked is what was
	// revoked since, and whoever has a full list of then or later may add it.
	Base     time.Time
	Freshest string // URL where the delta to a full CRL lies, "" for none
}

// CRL signs l in the name of the intermediate by, in DER. Its number is l.Now in
// milliseconds, so that numbers rise.
func (c *CA) CRL(by *x509.Certificate, l List) ([]byte, error) {
	signer, err := c.find(by)
	if err != nil {
		return nil, fmt.Errorf("make CRL: %w", err)
	}
	if l.Life <= 0 {
		return nil, fmt.Errorf("make CRL: a life of %s", l.Life)
	}
	list := &x509.RevocationList{Number: number(l.Now), ThisUpdate: l.Now.Add(-backdate), NextUpdate: l.Now.Add(l.Life)}
	for _, e := range l.Revoked {
		serial, ok := new(big.Int).SetString(e.Serial, 16)
		if !ok {
			return nil, fmt.Errorf("make CRL: serial %q is not hex", e.Serial)
		}
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: e.At, ReasonCode: e.Reason})
	}
	if list.ExtraExtensions, err = l.extensions(); err != nil {
		return nil, fmt.Errorf("make CRL: %w", err)
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, signer.cert, signer.key)
	if err != nil {
		return nil, fmt.Errorf("make CRL: %w", err)
	}
	return der, nil
}

func number(t time.Time) *big.Int { return big.NewInt(t.UnixMilli()) }

// extensions are those that crypto/x509 does not make.
func (l *List) extensions() ([]pkix.Extension, error) {
	var all []pkix.Extension
	if !l.Base.IsZero() {
		der, err := asn1.Marshal(number(l.Base))
		if err != nil {
			return nil, err
		}
		all = append(all, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: der}) // section 5.2.4
	}
	if l.Freshest != "" {
		type name struct {
			Full []asn1.RawValue `asn1:"optional,tag:0"`
		}
		type point struct {
			Name name `asn1:"optional,tag:0"`
		}
		uri := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(l.Freshest)}
		der, err := asn1.Marshal([]point{{name{[]asn1.RawValue{uri}}}})
		if err != nil {
			return nil, err
		}
		all = append(all, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 46}, Value: der}) // section 5.2.6
	}
	return all, nil
}
