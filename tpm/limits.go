package tpm

import "time"

// Limits on what comes from a chip or a file, in bytes unless the name says otherwise.
const (
	maxResponse    = 4096     // one TPM response (TPM 2.0 Part 4: MAX_RESPONSE_SIZE)
	headerSize     = 10       // tag, size, code (Part 1, 18.2)
	maxKeyFile     = 16 << 10 // a TSS2 PRIVATE KEY file
	maxKeyPart     = 2 << 10  // TPM2B_PUBLIC or TPM2B_PRIVATE in such a file
	maxNVIndex     = 8 << 10  // an NV index that should hold a certificate
	nvChunk        = 1024     // first try for TPM2_NV_Read; chips that want less say so
	maxChainCerts  = 8        // certificates of an EK chain, count
	maxAuth        = 64       // a hierarchy's password: the largest digest of a chip
	maxQualifying  = 64       // qualifying data: the largest TPMT_HA digest
	maxPCR         = 23       // the PC Client profile has 24 PCRs
	maxCapHandles  = 64       // handles asked for in one TPM2_GetCapability, count
	maxLoaded      = 3        // objects loaded at once, count (the minimum that chips offer)
	maxRetries     = 12       // repeats of a command that the chip postponed, count
	firstRetryWait = 2 * time.Millisecond
	maxRetryWait   = 250 * time.Millisecond
	signTimeout    = 30 * time.Second // crypto.Signer has no context
	cleanTimeout   = 5 * time.Second  // for flushing after a caller gave up
	closeTimeout   = time.Second      // for a running operation to end before Close
	stuckAfter     = 2 * time.Second  // an abandoned operation that runs this long means a silent chip
)
