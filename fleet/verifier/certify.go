package verifier

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

// maxAttest is the longest TPMS_ATTEST or TPMT_SIGNATURE that is looked at, in bytes.
const maxAttest = 1024

// VerifyCertify checks that the AK vouches for an operational key: info, a
// TPMS_ATTEST of TPM2_Certify over qualifying (part 2, 10.12.12; part 3, 18.2) by
// ak, names exactly public, and both keys are P-256 and can't leave their TPM.
// All but qualifying are in wire form; both keys are TPMT_PUBLIC. That the AK is
// in a genuine TPM is what MakeCredential proves.
func VerifyCertify(ak, info, signature, public, qualifying []byte) error {
	signer, err := parsePublic(ak)
	if err != nil {
		return fmt.Errorf("attestation key: %w", err)
	}
	akKey, err := signingKey(signer, true)
	if err != nil {
		return fmt.Errorf("attestation key: %w", err)
	}
	if err := verifySignature(akKey, info, signature); err != nil {
		return err
	}
	certified, err := certifiedName(info, qualifying)
	if err != nil {
		return err
	}
	key, err := parsePublic(public)
	if err != nil {
		return fmt.Errorf("operational key: %w", err)
	}
	if _, err := signingKey(key, false); err != nil {
		return fmt.Errorf("operational key: %w", err)
	}
	name, err := Name(public)
	if err != nil {
		return fmt.Errorf("operational key: %w", err)
	}
	if !bytes.Equal(name, certified) {
		return errors.New("the attestation key certified another key")
	}
	return nil
}

// verifySignature: TPMT_SIGNATURE with ECDSA and SHA-256, nothing behind it.
func verifySignature(key *ecdsa.PublicKey, message, signature []byte) error {
	if len(signature) > maxAttest || len(message) > maxAttest {
		return fmt.Errorf("attestation of %d bytes with a signature of %d", len(message), len(signature))
	}
	sig, err := tpm2.Unmarshal[tpm2.TPMTSignature](signature)
	if err != nil {
		return fmt.Errorf("decode signature: %w", err)
	}
	if sig.SigAlg != tpm2.TPMAlgECDSA {
		return fmt.Errorf("signature of algorithm 0x%04x, want ECDSA", uint16(sig.SigAlg))
	}
	ec, err := sig.Signature.ECDSA()
	if err != nil {
		return fmt.Errorf("decode signature: %w", err)
	}
	if ec.Hash != tpm2.TPMAlgSHA256 || !bytes.Equal(tpm2.Marshal(sig), signature) {
		return errors.New("signature is not ECDSA with SHA-256 in its canonical form")
	}
	digest := sha256.Sum256(message)
	r, s := new(big.Int).SetBytes(ec.SignatureR.Buffer), new(big.Int).SetBytes(ec.SignatureS.Buffer)
	if !ecdsa.Verify(key, digest[:], r, s) {
		return errors.New("the attestation key did not sign this")
	}
	return nil
}

// certifiedName returns the name that info certifies. The magic says that a TPM
// made info (a restricted key signs nothing else that begins so); without the
// type, a quote or a session audit would pass for it.
func certifiedName(info, qualifying []byte) ([]byte, error) {
	att, err := tpm2.Unmarshal[tpm2.TPMSAttest](info)
	switch {
	case err != nil:
		return nil, fmt.Errorf("decode attestation: %w", err)
	case att.Magic != tpm2.TPMGeneratedValue:
		return nil, errors.New("attestation was not made by a TPM (magic)")
	case att.Type != tpm2.TPMSTAttestCertify:
		return nil, fmt.Errorf("attestation of type 0x%04x, want certify", uint16(att.Type))
	case !bytes.Equal(att.ExtraData.Buffer, qualifying):
		return nil, errors.New("attestation is not for this fleet and request (qualifying data)")
	}
	certify, err := att.Attested.Certify()
	if err != nil {
		return nil, fmt.Errorf("decode attestation: %w", err)
	}
	if !bytes.Equal(tpm2.Marshal(att), info) {
		return nil, errors.New("attestation is not in its canonical form")
	}
	return certify.Name.Buffer, nil
}
