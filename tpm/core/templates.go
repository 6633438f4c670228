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
