package wire

import (
	"crypto/sha256"
	"time"
)

// Paths of the fleet's device API. EST is RFC 7030; the rest is ours.
const (
	PathEnroll         = "/v1/enroll"           // POST EnrollRequest -> EnrollChallenge
	PathChallenge      = "/v1/attest/challenge" // POST -> Challenge; client certificate or ticket
	PathEvidence       = "/v1/attest/evidence"  // POST attest.Evidence -> Verdict; client certificate or ticket
	PathCACerts        = "/.well-known/est/cacerts"
	PathCSRAttrs       = "/.well-known/est/csrattrs"
	PathSimpleEnroll   = "/.well-known/est/simpleenroll"
	PathSimpleReenroll = "/.well-known/est/simplereenroll"
)

// EnrollRequest opens an enrolment or a recovery (same EK, known device).
// TPM structures are in their wire form.
type EnrollRequest struct {
	Version       int      `json:"v"`                        // 1
	EKCertificate []byte   `json:"ek_certificate,omitempty"` // DER, padding allowed; absent if the chip has none
	EKChain       [][]byte `json:"ek_chain,omitempty"`       // DER intermediates from NV
	EKPublic      []byte   `json:"ek_public"`                // TPMT_PUBLIC
	AKPublic      []byte   `json:"ak_public"`                // TPMT_PUBLIC
	CSR           []byte   `json:"csr"`                      // PKCS #10 DER, by the operational key
	Key           KeyProof `json:"key"`
	Model         string   `json:"model"`              // hardware model: a claim until approved
	Hostname      string   `json:"hostname,omitempty"` // a claim
	Software      string   `json:"software"`           // agent version: a claim
	Token         string   `json:"token,omitempty"`    // one-time enrolment token
	IAK           *IAK     `json:"iak,omitempty"`      // absent if the machine's maker left none
}

// IAK shows that the AK lives in a TPM whose machine's maker certified an attestation
// key in it (TCG, TPM 2.0 Keys for Device Identity and Attestation).
type IAK struct {
	Certificate []byte `json:"certificate"` // DER, padding allowed
	Certify     []byte `json:"certify"`     // TPMS_ATTEST of TPM2_Certify of the AK by the IAK over IAKQualifyingData
	Signature   []byte `json:"signature"`   // TPMT_SIGNATURE
}

// IAKQualifyingData binds an IAK's statement to the fleet and to the endorsement
// key: SHA-256("gw-iak-v1" || fleet || EK Name).
func IAKQualifyingData(fleet string, ekName []byte) []byte {
	h := sha256.New()
	h.Write([]byte("gw-iak-v1"))
	h.Write([]byte(fleet))
	h.Write(ekName)
	return h.Sum(nil)
}

// KeyProof shows that an operational key lives in the TPM that holds the AK.
// simplereenroll carries it, as base64 of its JSON, in the header KeyProofHeader.
type KeyProof struct {
	Public    []byte `json:"public"`    // TPMT_PUBLIC of the operational key
	Certify   []byte `json:"certify"`   // TPMS_ATTEST of TPM2_Certify by the AK over CertifyQualifyingData
	Signature []byte `json:"signature"` // TPMT_SIGNATURE
}

// KeyProofHeader is the HTTP header of simplereenroll that holds a KeyProof.
const KeyProofHeader = "Gatewarden-Key-Proof"

// CertifyQualifyingData binds a KeyProof to the fleet and to
// the CSR: SHA-256("gw-certify-v1" || fleet || SHA-256(CSR)).
func CertifyQualifyingData(fleet string, csr []byte) []byte {
	digest := sha256.Sum256(csr)
	h := sha256.New()
	h.Write([]byte("gw-certify-v1"))
	h.Write([]byte(fleet))
	h.Write(digest[:])
	return h.Sum(nil)
}

// EnrollChallenge is answered by TPM2_ActivateCredential: the recovered secret,
// in lower-case hex, is the HTTP Basic password with Ticket as user name, for
// PathChallenge, PathEvidence and PathSimpleEnroll with the same CSR. A ticket
// ends when a certificate was issued, or at Expires.
type EnrollChallenge struct {
	Version         int       `json:"v"`
	Ticket          string    `json:"ticket"`
	Device          string    `json:"device"`
	CredentialBlob  []byte    `json:"credential_blob"`  // TPM2B_ID_OBJECT contents
	EncryptedSecret []byte    `json:"encrypted_secret"` // TPM2B_ENCRYPTED_SECRET contents
	Expires         time.Time `json:"expires"`
}

// Problem is the body of every error answer of the fleet's HTTP APIs (RFC 9457).
type Problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`          // what happened
	Detail string `json:"detail"`         // what to do next
	Rule   string `json:"rule,omitempty"` // which check refused, a constant word
}

// RuleStaleVerdict is the Problem.Rule that says: attest again, then repeat the request.
const RuleStaleVerdict = "stale-verdict"
