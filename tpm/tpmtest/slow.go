package tpmtest

import (
	"encoding/binary"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// NewSlow makes a chip take so much longer for each operation with a private key, as
// a discrete one does (200 to 600 ms): it shows what hardware would feel like.
func NewSlow(next transport.TPM, delay time.Duration) transport.TPM { return slow{next, delay} }

type slow struct {
	next  transport.TPM
	delay time.Duration
}

func (s slow) Send(command []byte) ([]byte, error) {
	if usesPrivateKey(command) {
		time.Sleep(s.delay)
	}
	return s.next.Send(command)
}

func usesPrivateKey(command []byte) bool {
	if len(command) < headerSize+4 {
		return false
	}
	switch tpm2.TPMCC(binary.BigEndian.Uint32(command[6:10])) {
	case tpm2.TPMCCCreatePrimary, tpm2.TPMCCCreate, tpm2.TPMCCCreateLoaded, tpm2.TPMCCSign, tpm2.TPMCCQuote,
		tpm2.TPMCCCertify, tpm2.TPMCCNVCertify, tpm2.TPMCCActivateCredential:
		return true
	case tpm2.TPMCCStartAuthSession: // if it is salted
		return binary.BigEndian.Uint32(command[headerSize:]) != uint32(tpm2.TPMRHNull)
	}
	return false
}

var _ transport.TPM = slow{}
