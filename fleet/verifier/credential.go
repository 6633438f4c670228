package verifier

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/internal/ektemplate"
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
		ektemplate.H1(), ektemplate.H2(), ektemplate.H3(),
	}
}
