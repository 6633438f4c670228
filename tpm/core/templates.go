package core

import (
	"bytes"

	"github.com/google/go-tpm/tpm2"
)

// Handles that the TCG reserves (Registry of Reserved TPM 2.0 Handles and
// Localities, 2.3; EK Credential Profile 2.5, 2.2.1.4).
const (
	HandleSRK       = tpm2.TPMHandle(0x81000001) // the storage key, where there is a persistent one
	persistentFirst = tpm2.TPMHandle(0x81000000)
	persistentLast  = tpm2.TPMHandle(0x81ffffff)
	transientFirst  = tpm2.TPMHandle(0x80000000)
	sessionFirst    = tpm2.TPMHandle(0x02000000) // lists the loaded sessions, of any kind
	nvEKFirst       = tpm2.TPMHandle(0x01c00002)
	nvEKHighFirst   = tpm2.TPMHandle(0x01c00012) // from here on a template follows its certificate
	nvEKLast        = tpm2.TPMHandle(0x01c07fff)
	nvChainFirst    = tpm2.TPMHandle(0x01c00100)
	nvChainLast     = tpm2.TPMHandle(0x01c001ff)
)

// srkTemplate is the storage primary key that key files with an owner parent mean:
// ECC P-256 with an empty unique field, as the OpenSSL providers make it.
func srkTemplate() tpm2.TPMTPublic {
	t := tpm2.ECCSRKTemplate
	t.Unique = emptyPoint()
	return t
}

func emptyPoint() tpm2.TPMUPublicID {
	return tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
}

// isStandardSRK tells whether a public area is one of the TCG storage templates,
// whatever its key.
func isStandardSRK(public tpm2.TPMTPublic) bool {
	return SameTemplate(public, tpm2.ECCSRKTemplate) || SameTemplate(public, tpm2.RSASRKTemplate)
}

// SameTemplate compares all of two public areas but the key.
func SameTemplate(a, b tpm2.TPMTPublic) bool {
	if a.Type != b.Type {
		return false
	}
	a.Unique = b.Unique
	return bytes.Equal(tpm2.Marshal(a), tpm2.Marshal(b))
}

// highRange turns a low-range template into its high-range form: usable by
// password too, PolicyB, an empty unique field.
func highRange(t tpm2.TPMTPublic, policy []byte, unique tpm2.TPMUPublicID) tpm2.TPMTPublic {
	t.ObjectAttributes.UserWithAuth = true
	t.AuthPolicy = tpm2.TPM2BDigest{Buffer: policy}
	t.Unique = unique
	return t
}

func ekTemplateH1() tpm2.TPMTPublic {
	return highRange(tpm2.RSAEKTemplate, policyBSHA256(), tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{}))
}

func ekTemplateH2() tpm2.TPMTPublic {
	return highRange(tpm2.ECCEKTemplate, policyBSHA256(), emptyPoint())
}

func ekTemplateH3() tpm2.TPMTPublic {
	t := highRange(tpm2.ECCEKTemplate, policyBSHA384(), emptyPoint())
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

// policyBSHA256 is PolicyB of the EK Credential Profile 2.5, B.6.
func policyBSHA256() []byte {
	return []byte{
		0xca, 0x3d, 0x0a, 0x99, 0xa2, 0xb9, 0x39, 0x06, 0xf7, 0xa3, 0x34, 0x24, 0x14, 0xef, 0xcf, 0xb3,
		0xa3, 0x85, 0xd4, 0x4c, 0xd1, 0xfd, 0x45, 0x90, 0x89, 0xd1, 0x9b, 0x50, 0x71, 0xc0, 0xb7, 0xa0,
	}
}

func policyBSHA384() []byte {
	return []byte{
		0xb2, 0x6e, 0x7d, 0x28, 0xd1, 0x1a, 0x50, 0xbc, 0x53, 0xd8, 0x82, 0xbc, 0xf5, 0xfd, 0x3a, 0x1a,
		0x07, 0x41, 0x48, 0xbb, 0x35, 0xd3, 0xb4, 0xe4, 0xcb, 0x1c, 0x0a, 0xd9, 0xbd, 0xe4, 0x19, 0xca,
		0xcb, 0x47, 0xba, 0x09, 0x69, 0x96, 0x46, 0x15, 0x0f, 0x9f, 0xc0, 0x00, 0xf3, 0xf8, 0x0e, 0x12,
	}
}
