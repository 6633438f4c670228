// Package softkey is what gateway and fleet share about a gateway without a TPM:
// what it is known by, what its first key signs, and how it introduces itself.
//
// Its promise: a statement by a first key stands for one purpose, and no name of a
// first key is ever that of a TPM's endorsement key.
package softkey

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
)

// PathEnroll is the device API's: POST Request -> Challenge.
const PathEnroll = "/v1/enroll/software"

// Rule is the attestation rule by which signed policy admits and grades gateways
// without a TPM, and the word of refusals where it does not.
const Rule = "software-keys"

// Request opens an enrolment or a recovery (same first key, known device).
type Request struct {
	Version  int    `json:"v"`                  // 1
	FirstKey []byte `json:"first_key"`          // SubjectPublicKeyInfo, ECDSA P-256
	CSR      []byte `json:"csr"`                // PKCS #10 DER, by the operational key
	Proof    []byte `json:"proof"`              // ECDSA signature (ASN.1) by the first key over Certify
	Model    string `json:"model"`              // hardware model: a claim until approved
	Hostname string `json:"hostname,omitempty"` // a claim
	Software string `json:"software"`           // agent version: a claim
	Token    string `json:"token,omitempty"`    // one-time enrolment token
}

// Challenge is answered by the first key: its signature (ASN.1) over Admit, in
// lower-case hex, is the HTTP Basic password with Ticket as user name.
type Challenge struct {
	Version int       `json:"v"`
	Ticket  string    `json:"ticket"`
	Device  string    `json:"device"`
	Nonce   []byte    `json:"nonce"` // 32 random bytes
	Expires time.Time `json:"expires"`
}

// Certify is the digest by which a first key vouches for the key of a CSR.
func Certify(fleet string, csr []byte) []byte {
	sum := sha256.Sum256(csr)
	return digest("gw-soft-certify-v1", fleet, sum[:])
}

// Admit is the digest by which a first key answers a Challenge.
func Admit(fleet, ticket string, nonce []byte) []byte {
	sum := sha256.Sum256(nonce)
	return digest("gw-soft-admit-v1", fleet+"\x00"+ticket, sum[:])
}

// digest: all parts but one have a fixed length, or none of the bytes that end them.
func digest(purpose, text string, sum []byte) []byte {
	all := sha256.Sum256(append([]byte(purpose+"\x00"+text+"\x00"), sum...))
	return all[:]
}

// Name is what wire.DeviceID is made of: 0xffff || SHA-256("gw-first-key-v1" || key).
// The Name of an endorsement key begins with its hash algorithm (TPM 2.0 Library,
// part 1, 16), and 0xffff is none.
func Name(public []byte) []byte {
	sum := sha256.Sum256(append([]byte("gw-first-key-v1"), public...))
	return append([]byte{0xff, 0xff}, sum[:]...)
}

// Parse reads a first key. Exactly one encoding is accepted, because its hash is a name.
func Parse(public []byte) (*ecdsa.PublicKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("parse first key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("parse first key: it is not ECDSA P-256")
	}
	if again, err := x509.MarshalPKIXPublicKey(key); err != nil || !bytes.Equal(again, public) {
		return nil, errors.New("parse first key: it is not in its canonical form")
	}
	return key, nil
}

// Verify checks a signature by a first key.
func Verify(public, digest, signature []byte) error {
	key, err := Parse(public)
	if err != nil {
		return err
	}
	if !ecdsa.VerifyASN1(key, digest, signature) {
		return errors.New("the signature is not by the gateway's first key")
	}
	return nil
}

// NoTPM says whether there is nothing at path that could be a TPM, nor, where path
// is a device, a trace of one elsewhere: a chip that is slow, shut or forbidden is no
// reason to do without it.
func NoTPM(path string) bool {
	absent := func(path string) bool {
		_, err := os.Lstat(path)
		return errors.Is(err, fs.ErrNotExist)
	}
	if device := strings.HasPrefix(path, "/dev/"); device && (!absent("/sys/class/tpm/tpm0") || !absent("/sys/firmware/acpi/tables/TPM2")) {
		return false
	}
	return absent(strings.TrimPrefix(strings.TrimPrefix(path, "swtpm:"), "unix:"))
}
