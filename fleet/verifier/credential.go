package verifier

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// MakeCredential wraps secret so that only the TPM that holds the EK, and only
// while it has a key named akName loaded, can recover it by
// TPM2_ActivateCredential (TPM 2.0 Library, part 1, 24). ekPublic is the
// TPMT_PUBLIC of an EK made by one of the TCG templates. blob and encrypted are the
// contents of TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET.
func MakeCredential(ekPublic, akName, secret []byte) (blob, encrypted []byte, err error) {
	ek, err := parseEK(ekPublic)
	if err != nil {
		return nil, nil, fmt.Errorf("make credential: %w", err)
	}
	key, err := tpm2.ImportEncapsulationKey(ek)
	if err != nil {
		return nil, nil, fmt.Errorf("make credential: %w", err)
	}
	blob, encrypted, err = tpm2.CreateCredential(rand.Reader, key, akName, secret)
	if err != nil {
		return nil, nil, fmt.Errorf("make credential: %w", err)
	}
	return blob, encrypted, nil
}

// CheckEK says whether a TPMT_PUBLIC is an EK by one of the TCG templates, in the
// one form that a TPM gives it.
//
// A device's id is the hash of this structure, and neither the certificate nor
// the credential covers more of it than the key: without this check one TPM could
// enrol under as many ids as there are ways to fill the rest.
func CheckEK(public []byte) error {
	_, err := parseEK(public)
	return err
}

func parseEK(raw []byte) (*tpm2.TPMTPublic, error) {
	p, err := parsePublic(raw)
	if err != nil {
		return nil, fmt.Errorf("endorsement key: %w", err)
	}
	for _, template := range ekTemplates() {
		if template.Type != p.Type {
			continue
		}
		template.Unique = p.Unique
		if bytes.Equal(tpm2.Marshal(template), raw) {
			return p, checkUnique(p)
		}
	}
	return nil, errors.New("endorsement key: not made by a TCG template for RSA 2048, P-256 or P-384")
}

// checkUnique refuses a second spelling of the same key.
func checkUnique(p *tpm2.TPMTPublic) error {
	if p.Type == tpm2.TPMAlgRSA {
		n, err := p.Unique.RSA()
		if err != nil || len(n.Buffer) != 256 || n.Buffer[0] < 0x80 {
			return errors.New("endorsement key: the modulus has not 2048 bits")
		}
		return nil
	}
	parms, err := p.Parameters.ECCDetail()
	if err != nil {
		return fmt.Errorf("endorsement key: %w", err)
	}
	point, err := p.Unique.ECC()
	if err != nil {
		return fmt.Errorf("endorsement key: %w", err)
	}
	size := 32
	if parms.CurveID == tpm2.TPMECCNistP384 {
		size = 48
	}
	if len(point.X.Buffer) != size || len(point.Y.Buffer) != size {
		return fmt.Errorf("endorsement key: coordinates are not padded to %d bytes", size)
	}
	_, err = publicKey(p)
	return err
}

// ekTemplates lists the accepted templates of the TCG EK Credential Profile 2.5:
// L-1, L-2 (B.3), H-1, H-2, H-3 (B.4).
func ekTemplates() []tpm2.TPMTPublic {
	return []tpm2.TPMTPublic{
		tpm2.RSAEKTemplate, tpm2.ECCEKTemplate,
		highRange(tpm2.RSAEKTemplate, policyB256()), highRange(tpm2.ECCEKTemplate, policyB256()), highP384(),
	}
}

// highRange turns a low-range template into its high-range form: usable with the
// endorsement password too, policy PolicyB.
func highRange(t tpm2.TPMTPublic, policy []byte) tpm2.TPMTPublic {
	t.ObjectAttributes.UserWithAuth = true
	t.AuthPolicy = tpm2.TPM2BDigest{Buffer: policy}
	return t
}

func highP384() tpm2.TPMTPublic {
	t := highRange(tpm2.ECCEKTemplate, policyB384())
	t.NameAlg = tpm2.TPMAlgSHA384
	t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Symmetric: tpm2.TPMTSymDefObject{
			Algorithm: tpm2.TPMAlgAES,
			KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(256)),
			Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
		},
		CurveID: tpm2.TPMECCNistP384,
	})
	return t
}

// policyB256 and policyB384 are PolicyB of the profile, B.6.2.
func policyB256() []byte {
	return []byte{
		0xca, 0x3d, 0x0a, 0x99, 0xa2, 0xb9, 0x39, 0x06, 0xf7, 0xa3, 0x34, 0x24, 0x14, 0xef, 0xcf, 0xb3,
		0xa3, 0x85, 0xd4, 0x4c, 0xd1, 0xfd, 0x45, 0x90, 0x89, 0xd1, 0x9b, 0x50, 0x71, 0xc0, 0xb7, 0xa0,
	}
}

func policyB384() []byte {
	return []byte{
		0xb2, 0x6e, 0x7d, 0x28, 0xd1, 0x1a, 0x50, 0xbc, 0x53, 0xd8, 0x82, 0xbc, 0xf5, 0xfd, 0x3a, 0x1a,
		0x07, 0x41, 0x48, 0xbb, 0x35, 0xd3, 0xb4, 0xe4, 0xcb, 0x1c, 0x0a, 0xd9, 0xbd, 0xe4, 0x19, 0xca,
		0xcb, 0x47, 0xba, 0x09, 0x69, 0x96, 0x46, 0x15, 0x0f, 0x9f, 0xc0, 0x00, 0xf3, 0xf8, 0x0e, 0x12,
	}
}
