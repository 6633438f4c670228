// Package tpm is everything that Gatewarden asks of a TPM 2.0.
//
// Its promise: no private key that it makes can leave the chip; and all that package
// core promises of the connection: no call outlives its context, nothing of others is
// changed or evicted, and no handle or session stays behind.
//
// # The keys
//
//	endorsement seed -> EK   proves "a genuine TPM": the maker signed its certificate
//	owner seed       -> SRK  a storage key: wraps the keys below, signs nothing
//	                    |-> AK            signs only what the TPM itself made (quotes)
//	                    `-> operational   signs what software asks for (TLS, CSR)
//
// EK and SRK are primary keys: the chip derives them again from a seed and a fixed
// template, so they need no storage. AK and operational keys live on disk as
// TSS2 PRIVATE KEY files, encrypted by the SRK of the one chip that can load them.
//
// A key is proven to be in the chip in two steps. Certify: the AK signs a statement
// about the operational key. Activate: only the chip that holds both the EK and the
// AK can recover a secret that was encrypted to the EK for the AK's Name.
//
// Below this package: core (the connection, for programs that make no keys), seal
// (secrets tied to boots; it explains policies), counter (the security epoch), anchor
// (the end of a log), devid (what the maker left).
//
// # Sharing
//
// Chips have room for three loaded objects. Gatewarden therefore expects a resource
// manager (/dev/tpmrm0), keeps at most three objects loaded on its connection, and
// saves and reloads the others itself.
package tpm
