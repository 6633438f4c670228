// Package seal ties secrets to the state in which a machine was booted.
//
// Its promise: the TPM gives a secret out only to a boot that its owner approved,
// on the chip that sealed it, at the security epoch at which it was sealed. When it
// does not, a *Refusal says which of these differs. Sealing protects against altered
// boots, not against somebody who controls the running system: what opened once in
// this boot he can have.
//
// # The policy
//
// A policy is a list of conditions in place of a password. A program opens a session
// and shows the chip one condition after the other; each that holds changes the
// session's digest: new := SHA-256(old || which condition || its arguments). The chip
// obeys if the digest at the end is the one in the object. So an object holds 32 bytes
// and the chip no list, and the conditions are given in the same order each time:
//
//	PolicyAuthorize(PCR-policy key, ref)  the owner signed these values of PCRs 11, 12,
//	                                      13 (and 4) for this product, channel and epoch
//	AND PolicyNV(counter == value)        no later epoch was reached since
//	AND PolicyPCR(7)                      Secure Boot is as it was on this device
//
// The first is signed once per release, so that a secret opens after an update
// although the values are new. Where releases carry no signatures, the values of this
// boot and of the one to come stand there as PolicyOR. With a recovery key the whole
// is one branch of a PolicyOR, and PolicySigned by that key the other.
//
// # The file
//
// The chip seals a key of 32 bytes; the secret is encrypted with it (AES-256-GCM).
// All that the file says of the secret is authenticated by that encryption, and the
// policy is computed again from it, so that neither can be altered apart.
package seal
