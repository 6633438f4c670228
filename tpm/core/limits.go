package core

import "time"

// Limits on what comes from a chip, in bytes unless the name says otherwise.
const (
	maxResponse    = 4096    // one TPM response (TPM 2.0 Part 4: MAX_RESPONSE_SIZE)
	headerSize     = 10      // tag, size, code (Part 1, 18.2)
	maxNVIndex     = 8 << 10 // an NV index that should hold a certificate
	nvChunk        = 1024    // first try for TPM2_NV_Read; chips that want less say so
	maxChainCerts  = 8       // certificates of an EK chain, count
	maxAuth        = 64      // a hierarchy's password: the largest digest of a chip
	maxCapHandles  = 64      // handles asked for in one TPM2_GetCapability, count
	maxLoaded      = 3       // objects loaded at once, count (the minimum that chips offer)
	maxRetries     = 12      // repeats of a command that the chip postponed, count
	firstRetryWait = 2 * time.Millisecond
	maxRetryWait   = 250 * time.Millisecond
	cleanTimeout   = 5 * time.Second // for flushing after a caller gave up
	closeTimeout   = time.Second     // for a running operation to end before Close
	stuckAfter     = 2 * time.Second // an abandoned operation that runs this long means a silent chip
)
