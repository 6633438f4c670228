package seal

import (
	"crypto"
	"encoding/asn1"
	"errors"
	"math/big"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm"
)

// loadKey gives the chip an approving key.
func loadKey(c *tpm.Chip, key crypto.PublicKey) (tpm2.NamedHandle, error) {
	data, err := tpmpolicy.PublicArea(key)
	if err != nil {
		return tpm2.NamedHandle{}, err
	}
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](data)
	if err != nil {
		return tpm2.NamedHandle{}, err
	}
	handle, err := c.Load(func() (tpm2.TPMHandle, error) {
		rsp, err := tpm2.LoadExternal{InPublic: tpm2.New2B(*area), Hierarchy: tpm2.TPMRHOwner}.Execute(c)
		if err != nil {
			return 0, err
		}
		return rsp.ObjectHandle, nil
	})
	return tpm2.NamedHandle{Handle: handle, Name: tpm2.TPM2BName{Buffer: tpmpolicy.Name(data)}}, err
}

// tpmSignature turns a signature of the file into the chip's form.
func tpmSignature(key crypto.PublicKey, signature []byte) (tpm2.TPMTSignature, error) {
	if area, err := tpmpolicy.PublicArea(key); err != nil || area[1] == byte(tpm2.TPMAlgRSA) {
		return tpm2.TPMTSignature{
			SigAlg: tpm2.TPMAlgRSASSA,
			Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA, &tpm2.TPMSSignatureRSA{
				Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: signature},
			}),
		}, err
	}
	var sig struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(signature, &sig); err != nil || len(rest) != 0 || sig.R.Sign() < 1 || sig.S.Sign() < 1 ||
		sig.R.BitLen() > 256 || sig.S.BitLen() > 256 {
		return tpm2.TPMTSignature{}, errors.New("read signature: not ASN.1 of ECDSA P-256")
	}
	return tpm2.TPMTSignature{
		SigAlg: tpm2.TPMAlgECDSA,
		Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
			Hash:       tpm2.TPMAlgSHA256,
			SignatureR: tpm2.TPM2BECCParameter{Buffer: sig.R.FillBytes(make([]byte, 32))},
			SignatureS: tpm2.TPM2BECCParameter{Buffer: sig.S.FillBytes(make([]byte, 32))},
		}),
	}, nil
}
