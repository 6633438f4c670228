package tpm

import "time"

// Limits on what comes from a chip or a file, in bytes unless the name says otherwise.
const (
	headerSize    = 10               // tag, size, code of a response (TPM 2.0 Part 1, 18.2)
	maxKeyFile    = 16 << 10         // a TSS2 PRIVATE KEY file
	maxKeyPart    = 2 << 10          // TPM2B_PUBLIC or TPM2B_PRIVATE in such a file
	maxQualifying = 64               // qualifying data: the largest TPMT_HA digest
	maxPCR        = 23               // the PC Client profile has 24 PCRs
	signTimeout   = 30 * time.Second // crypto.Signer has no context
	cleanTimeout  = 5 * time.Second  // for Close, which has none either
)
