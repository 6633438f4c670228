package ca

import (
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"time"
)

// Entry is one revoked certificate.
type Entry struct {
	Serial string // hex
	At     time.Time
}

// CRL signs the list of revoked certificates of the intermediate that issues p,
// in DER, valid for life. Its number rises with now (milliseconds). The caller
// chooses the entries of that intermediate.
func (c *CA) CRL(p Profile, revoked []Entry, now time.Time, life time.Duration) ([]byte, error) {
	chain := c.Chain(p)
	if chain == nil || life <= 0 {
		return nil, fmt.Errorf("make CRL: profile %q, life %s", p, life)
	}
	var by issuer
	for _, i := range c.issuers {
		if i.cert == chain[0] {
			by = i
		}
	}
	list := &x509.RevocationList{Number: big.NewInt(now.UnixMilli()), ThisUpdate: now, NextUpdate: now.Add(life)}
	for _, e := range revoked {
		serial, ok := new(big.Int).SetString(e.Serial, 16)
		if !ok {
			return nil, fmt.Errorf("make CRL: serial %q is not hex", e.Serial)
		}
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: e.At})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, by.cert, by.key)
	if err != nil {
		return nil, fmt.Errorf("make CRL: %w", err)
	}
	return der, nil
}
