// Package core is one connection to a TPM 2.0: who owns it, what is loaded in the chip,
// which keys it has by itself (EK, SRK), and its NV memory. Package tpm, which makes
// keys and has them sign, is built on it.
//
// Its promise: no call outlives its context, however silent the chip; nothing that
// others put into the chip is changed or evicted; no handle or session stays behind;
// and a value that ReadNV returns was sent by the chip that was pinned, whoever holds
// the bus.
//
// The root helper links this package and counter, and nothing else of tpm.
package core
