// Package est is how Enrolment over Secure Transport (RFC 7030 with RFC 8951)
// puts requests and certificates on the wire, for both ends.
//
// It judges form only: who may have which certificate, and whether a chain is to
// be trusted, is decided elsewhere. Nothing that arrives makes it panic.
package est

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/gatewarden/gatewarden/internal/wire"
)

// Media types of RFC 7030, section 3.2.2.
const (
	TypeCSR       = "application/pkcs10"
	TypeCertsOnly = "application/pkcs7-mime"
	TypeCSRAttrs  = "application/csrattrs"
)

// SameType says whether a Content-Type header names the media type want; case
// and parameters do not count.
func SameType(header, want string) bool {
	got, _, err := mime.ParseMediaType(header)
	return err == nil && strings.EqualFold(got, want)
}

// WriteCACerts answers /cacerts (RFC 7030, section 4.1.3).
func WriteCACerts(w http.ResponseWriter, certs []*x509.Certificate) error {
	return WriteCertsOnly(w, certs)
}

// WriteCertsOnly answers /cacerts, /simpleenroll and /simplereenroll: certs in
// their order, the issued one first. An error comes before anything is written.
func WriteCertsOnly(w http.ResponseWriter, certs []*x509.Certificate) error {
	der, err := EncodeCertsOnly(certs)
	if err != nil {
		return err
	}
	write(w, TypeCertsOnly+"; smime-type=certs-only", der)
	return nil
}

// WriteCSRAttrs answers /csrattrs (RFC 7030, section 4.5.2): an EC key on P-256,
// a signature with ECDSA and SHA-256.
func WriteCSRAttrs(w http.ResponseWriter) error {
	type ecKey struct {
		Type   asn1.ObjectIdentifier
		Curves []asn1.ObjectIdentifier `asn1:"set"`
	}
	der, err := asn1.Marshal(struct {
		Key       ecKey
		Signature asn1.ObjectIdentifier
	}{
		ecKey{asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}, []asn1.ObjectIdentifier{{1, 2, 840, 10045, 3, 1, 7}}},
		asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2},
	})
	if err != nil {
		return fmt.Errorf("encode CSR attributes: %w", err)
	}
	write(w, TypeCSRAttrs, der)
	return nil
}

// write sends DER as base64. RFC 8951 makes Content-Transfer-Encoding
// meaningless; clients of RFC 7030 alone look for it.
func write(w http.ResponseWriter, contentType string, der []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Transfer-Encoding", "base64")
	_, _ = io.WriteString(w, base64.StdEncoding.EncodeToString(der)) // the client is gone: it will ask again
}

// ReadCSR reads the body of a simpleenroll or simplereenroll request: base64 of a
// PKCS #10 request, at most limit bytes, checked as ParseCSR does.
func ReadCSR(r *http.Request, limit int64) (*x509.CertificateRequest, error) {
	if !SameType(r.Header.Get("Content-Type"), TypeCSR) {
		return nil, fmt.Errorf("read CSR: content type %q, want %s", clip(r.Header.Get("Content-Type")), TypeCSR)
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read CSR: %w", err)
	}
	if int64(len(body)) > limit {
		return nil, fmt.Errorf("read CSR: larger than %d bytes", limit)
	}
	der, err := decode(body)
	if err != nil {
		return nil, fmt.Errorf("read CSR: %w", err)
	}
	return ParseCSR(der)
}

// ParseCSR decodes a PKCS #10 request in DER. Its key must be ECDSA P-256, and it
// must be signed by that key with SHA-256. What else it asks for is the caller's
// to ignore.
func ParseCSR(der []byte) (*x509.CertificateRequest, error) {
	if len(der) > wire.MaxCertificate {
		return nil, fmt.Errorf("parse CSR: %d bytes, at most %d", len(der), wire.MaxCertificate)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("parse CSR: %w", err)
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("parse CSR: the key is not ECDSA P-256")
	}
	if csr.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		return nil, fmt.Errorf("parse CSR: signed with %s, want ECDSA with SHA-256", csr.SignatureAlgorithm)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("parse CSR: %w", err)
	}
	return csr, nil
}

// ParseCertsOnly decodes the body of an answer: base64, line breaks allowed, of
// what DecodeCertsOnly takes.
func ParseCertsOnly(body []byte) ([]*x509.Certificate, error) {
	if len(body) > wire.MaxBody*2 {
		return nil, fmt.Errorf("decode certs-only message: %d bytes, at most %d", len(body), wire.MaxBody*2)
	}
	der, err := decode(body)
	if err != nil {
		return nil, err
	}
	return DecodeCertsOnly(der)
}

// decode is base64 with white space anywhere: RFC 8951 has section 4 of RFC 4648,
// servers of RFC 7030 break lines.
func decode(body []byte) ([]byte, error) {
	text := strings.Map(func(r rune) rune {
		if r == ' ' || r == '\t' || r == '\r' || r == '\n' {
			return -1
		}
		return r
	}, string(body))
	der, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("decode base64: %w", err)
	}
	return der, nil
}

func clip(s string) string { return s[:min(len(s), 64)] }
