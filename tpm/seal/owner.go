package seal

import (
	"crypto"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy/sigfile"
)

// What a Policy is made of, by names that other modules can use.
type (
	Ref    = tpmpolicy.Ref    // what a signed policy is for
	Digest = tpmpolicy.Digest // of a PCR or a policy
	Signed = tpmpolicy.Signed // a boot that the owner approved
)

// Approve is the owner's part, which needs no TPM: a signature by the PCR-policy key
// over the PCR values of one boot. The values are of ref.PCRs.
func Approve(key crypto.Signer, ref Ref, values map[int]Digest) (Signed, error) {
	return tpmpolicy.Approve(key, ref, values)
}

// ReadApproved and WriteApproved are the file format of systemd-measure
// (tpm2-pcr-signature.json).
func ReadApproved(file []byte) ([]Signed, error)  { return sigfile.Parse(file) }
func WriteApproved(list []Signed) ([]byte, error) { return sigfile.Encode(list) }
