package tpmpolicy

// Limits, in bytes unless the name says otherwise.
const (
	MaxFile      = 256 << 10 // a tpm2-pcr-signature.json
	MaxSigned    = 512       // signed policies in it, count
	MaxSignature = 1 << 10   // one signature
	MaxKey       = 1 << 10   // a public key, DER
	maxWord      = 64        // product or channel
	maxEpoch     = 1 << 16
	maxBranches  = 8 // of Or, count (TPM 2.0 Part 2, 10.9.4)
	lastPCR      = 23
)
