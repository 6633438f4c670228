// Package ear tells others how a gateway was judged: attestation results as signed
// JSON Web Tokens (draft-ietf-rats-ear-04, RFC 9711), which anybody can verify with
// the keys that the fleet publishes.
//
// Its promise: a token says no more than the verdict behind it, names the policy
// that it was judged by, and ends minutes after the evidence was appraised,
// whenever it was asked for.
package ear

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/gatewarden/gatewarden/attest"
)

// Profile is the eat_profile of the tokens.
const Profile = "tag:ietf.org,2026:rats/ear#04"

// Life is how long a token counts, from the appraisal on.
const Life = 10 * time.Minute

// ErrOld is returned for a verdict from which no token can be made any more.
var ErrOld = errors.New("the last verdict is too old for an attestation result")

// Appraisal is a verdict with what it rests on.
type Appraisal struct {
	Device  string
	At      time.Time
	Grade   attest.Grade
	Rules   []attest.RuleResult
	Release string // that the boot matches whole; "" if none
	Claims  attest.Claims
	Nonce   []byte // of the challenge that the evidence answered
	Policy  string // attest.Policy.ID
	Genuine bool   // a known TPM maker vouches for the device's EK
	Files   bool   // the IMA list was held against the files that are allowed
}

// Config of an Issuer. All fields are required.
type Config struct {
	Keys  *Keys
	Fleet string
	Build string // of this program
	Now   func() time.Time
}

// Issuer makes tokens. Safe for concurrent use.
type Issuer struct{ Config }

// New checks c.
func New(c Config) (*Issuer, error) {
	if c.Keys == nil || c.Fleet == "" || c.Build == "" || c.Now == nil {
		return nil, errors.New("attestation results: incomplete configuration")
	}
	return &Issuer{c}, nil
}

// Claims of a token; names by draft-ietf-rats-ear-04, section 3, and RFC 7519.
type claims struct {
	Profile  string               `json:"eat_profile"`
	Issuer   string               `json:"iss"`
	Subject  string               `json:"sub"` // device id
	IssuedAt int64                `json:"iat"` // when the evidence was appraised
	Expires  int64                `json:"exp"`
	Status   string               `json:"ear_status"`
	Verifier verifierID           `json:"ear_verifier_id"`
	Nonce    string               `json:"eat_nonce,omitempty"` // of whoever asked for the token
	Submods  map[string]appraisal `json:"submods"`
}

type verifierID struct {
	Developer string `json:"developer"`
	Build     string `json:"build"`
}

type appraisal struct {
	Status   string         `json:"ear_status"`
	Vector   map[string]int `json:"ear_trustworthiness_vector"`
	Policies []string       `json:"ear_appraisal_policy_ids"`
	Nonce    string         `json:"eat_nonce"` // of the fleet's challenge
	Attester attesterClaims `json:"ear_attester_claims"`
	Verifier verifierClaims `json:"ear_verifier_claims"`
}

// attesterClaims are the gateway's own, quoted by its TPM.
type attesterClaims struct {
	Keys     []string `json:"keys"` // SHA-256 (hex) of the SubjectPublicKeyInfo of its operational keys
	Software string   `json:"software"`
	Slot     string   `json:"slot,omitempty"`
}

type verifierClaims struct {
	Release string `json:"release,omitempty"` // product and version that the boot matches whole
}

// Submodule is the name of the one appraisal in a token.
const Submodule = "gateway"

// Issue makes a token. nonce is that of whoever will read it, in base64url; it may be
// empty.
func (i *Issuer) Issue(a Appraisal, nonce string) (string, error) {
	now := i.Now()
	if now.Sub(a.At).Abs() >= Life { // or of a clock that was ahead
		return "", ErrOld
	}
	status := statusOf(a.Grade)
	body, err := json.Marshal(claims{
		Profile: Profile, Issuer: "urn:gatewarden:" + i.Fleet, Subject: a.Device, IssuedAt: a.At.Unix(), Expires: a.At.Add(Life).Unix(),
		Status: status, Verifier: verifierID{"Gatewarden", "gatewarden-fleet " + i.Build}, Nonce: nonce,
		Submods: map[string]appraisal{Submodule: {
			Status: status, Vector: vectorOf(a), Policies: []string{"urn:gatewarden:" + i.Fleet + ":policy:" + a.Policy},
			Nonce:    base64.RawURLEncoding.EncodeToString(a.Nonce),
			Attester: attesterClaims{a.Claims.Keys, a.Claims.Software, a.Claims.Slot}, Verifier: verifierClaims{a.Release},
		}},
	})
	if err != nil {
		return "", fmt.Errorf("encode attestation result: %w", err)
	}
	return i.sign(body, now)
}

// sign is JWS compact serialization with ES256 (RFC 7515, section 3.1; RFC 7518,
// section 3.4).
func (i *Issuer) sign(body []byte, now time.Time) (string, error) {
	key := i.Keys.signing(now)
	header, err := json.Marshal(map[string]string{"alg": "ES256", "kid": key.ID, "typ": "eat+jwt"})
	if err != nil {
		return "", fmt.Errorf("encode header: %w", err)
	}
	input := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(body)
	digest := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, key.private, digest[:])
	if err != nil {
		return "", fmt.Errorf("sign attestation result: %w", err)
	}
	signature := make([]byte, 2*coordinate)
	r.FillBytes(signature[:coordinate])
	s.FillBytes(signature[coordinate:])
	return input + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// statusOf is the trustworthiness tier of a grade.
func statusOf(g attest.Grade) string {
	switch g {
	case attest.Trusted:
		return "affirming"
	case attest.Degraded:
		return "warning"
	case attest.Untrusted:
		return "contraindicated"
	}
	return "none"
}
