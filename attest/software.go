package attest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
)

// SoftwareStatement is what the first key of a gateway without a TPM signs in the
// place of a quote (ECDSA, ASN.1): SHA-256("gw-soft-claims-v1" || QualifyingData).
func SoftwareStatement(fleet, device string, nonce, claims []byte) []byte {
	sum := sha256.Sum256(append([]byte("gw-soft-claims-v1"), QualifyingData(fleet, device, nonce, claims)...))
	return sum[:]
}

// VerifySoftware judges the evidence of a gateway without a TPM: claims, signed by its
// first key, whose SubjectPublicKeyInfo e.AK is. Nothing is proven of what it booted, so
// the result is never trusted. Which of the two ways a device is judged by was
// decided when it enrolled; evidence has no say in it.
func VerifySoftware(ev Evidence, e Expect) (*Result, error) {
	if err := checkExpect(&e); err != nil {
		return nil, fmt.Errorf("verify evidence: %w", err)
	}
	key, err := firstKey(e.AK)
	if err != nil {
		return nil, fmt.Errorf("verify evidence: read first key: %w", err)
	}
	switch {
	case ev.Version != 1:
		return nil, refuse("version", "evidence of version %d, not 1", ev.Version)
	case len(ev.Quote) > 0 || len(ev.PCRs) > 0 || !ev.EventLog.empty() || !ev.IMALog.empty():
		return nil, refuse(ruleSoftwareKeys, "a quote or a boot log from a gateway that enrolled with software keys: with a TPM it enrols as another")
	case !ecdsa.VerifyASN1(key, SoftwareStatement(e.Fleet, e.Device, e.Nonce, ev.Claims), ev.Signature):
		return nil, refuse("signature", "the claims are not signed by the gateway's first key over this fleet, device and nonce")
	}
	claims, err := openClaims(ev.Claims, &e)
	if err != nil {
		return nil, err
	}
	if !claims.SoftwareKeys {
		return nil, refuse(ruleSoftwareKeys, "the claims do not say that the keys lie in software")
	}
	a := &appraisal{expect: &e, clock: Clock{Key: sha256.Sum256(e.AK)}, claims: claims, facts: Facts{SecureBoot: "unknown"}}
	grade, rules := a.judge(softwareRules())
	return &Result{grade: grade, rules: rules, facts: a.facts, clock: a.clock, claims: claims, lines: a.explain(grade, rules, nil)}, nil
}

// softwareRules is all that a gateway without a TPM can be judged by.
func softwareRules() []rule {
	return []rule{
		{ruleSoftwareKeys, Distrust, "the keys live in a TPM; a gateway without one is admitted only where the policy says that this degrades", checkSoftwareKeys},
		{ruleHealthReport, Info, "the newest health report is the one that the claims name", checkHealthReport},
		{ruleHealthGrade, Info, "nothing is critical in the health report that the claims name", checkHealthGrade},
	}
}

// checkSoftwareKeys never holds: what it costs is the policy's to say.
func checkSoftwareKeys(a *appraisal) (bool, string) {
	if !a.expect.Policy.AdmitsSoftware() {
		return false, "software keys: this gateway has no TPM, and the signed policy admits none without one (rule software-keys)"
	}
	return false, "software keys: this gateway has no TPM, so nothing proves what it booted or that its keys are not copied"
}

// AdmitsSoftware says whether the policy grades gateways without a TPM. One that does
// not speak of them admits none.
func (p *Policy) AdmitsSoftware() bool {
	severity, ok := p.Rules[ruleSoftwareKeys]
	return ok && severity != Distrust
}

func (l *Log) empty() bool { return l.Offset == 0 && len(l.Bytes) == 0 && l.Digest.IsZero() }

func firstKey(public []byte) (*ecdsa.PublicKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("it is not ECDSA P-256")
	}
	return key, nil
}
