package seal

// Limits, in bytes unless the name says otherwise.
const (
	MaxSecret   = 64 << 10  // a secret
	MaxBlob     = 256 << 10 // a sealed file
	MaxName     = 128       // the name of a secret, or of a unit
	maxPart     = 2 << 10   // TPM2B_PUBLIC or TPM2B_PRIVATE in a file
	maxName     = 66        // a TPM Name
	maxLiteral  = 8         // boots that a secret opens in without a signature, count
	maxAttempts = 5         // unseals when PCRs change in between, count
	keySize     = 32        // the key that the chip seals
	nonceSize   = 12        // of AES-GCM

	format = 1
	// secureBootPCR holds the Secure Boot keys and state.
	secureBootPCR = 7
	// phasePCR holds the parts of the kernel image and the phases of the boot.
	phasePCR = 11
)
