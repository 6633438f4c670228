// Package ektemplate holds the endorsement keys' templates of the TCG that go-tpm
// does not have: those of the high range. Its promise: who makes an EK and who judges
// one go by the same bytes (EK Credential Profile 2.5, B.4).
package ektemplate

import "github.com/google/go-tpm/tpm2"

// H1 is RSA 2048.
func H1() tpm2.TPMTPublic {
	return highRange(tpm2.RSAEKTemplate, policyB256(), tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{}))
}

// H2 is ECC P-256.
func H2() tpm2.TPMTPublic {
	return highRange(tpm2.ECCEKTemplate, policyB256(), emptyPoint())
}

// H3 is ECC P-384.
func H3() tpm2.TPMTPublic {
	t := highRange(tpm2.ECCEKTemplate, policyB384(), emptyPoint())
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

// highRange turns a low-range template into its high-range form: usable by
// password too, PolicyB, an empty unique field.
func highRange(t tpm2.TPMTPublic, policy []byte, unique tpm2.TPMUPublicID) tpm2.TPMTPublic {
	t.ObjectAttributes.UserWithAuth = true
	t.AuthPolicy = tpm2.TPM2BDigest{Buffer: policy}
	t.Unique = unique
	return t
}

func emptyPoint() tpm2.TPMUPublicID {
	return tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
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
