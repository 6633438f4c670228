package attest

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"slices"
)

// Algorithm is TPM_ALG_ID of a hash.
type Algorithm uint16

// Hashes of PCR banks (TPM 2.0 Library, part 2, section 6.3).
const (
	AlgSHA1   Algorithm = 0x0004
	AlgSHA256 Algorithm = 0x000b
	AlgSHA384 Algorithm = 0x000c
	AlgSHA512 Algorithm = 0x000d
	algSM3    Algorithm = 0x0012
)

// ErrNoBank is the error of a replay in a bank that the log does not have.
var ErrNoBank = errors.New("the event log does not have that bank")

// String returns the usual name.
func (a Algorithm) String() string {
	switch a {
	case AlgSHA1:
		return "sha1"
	case AlgSHA256:
		return "sha256"
	case AlgSHA384:
		return "sha384"
	case AlgSHA512:
		return "sha512"
	case algSM3:
		return "sm3_256"
	}
	return fmt.Sprintf("algorithm 0x%04x", uint16(a))
}

// size of a digest in bytes; 0 if not known.
func (a Algorithm) size() int {
	switch a {
	case AlgSHA1:
		return 20
	case AlgSHA256, algSM3:
		return 32
	case AlgSHA384:
		return 48
	case AlgSHA512:
		return 64
	}
	return 0
}

func (a Algorithm) hash() hash.Hash {
	switch a {
	case AlgSHA1:
		return sha1.New()
	case AlgSHA256:
		return sha256.New()
	case AlgSHA384:
		return sha512.New384()
	case AlgSHA512:
		return sha512.New()
	}
	return nil
}

// Replay computes the PCRs that the log extends, SHA-256 bank. PCRs that are
// absent from the result kept their initial value.
func (l *EventLog) Replay() (map[int]Digest, error) {
	if !l.has(AlgSHA256) {
		return nil, fmt.Errorf("replay event log, %s: %w", AlgSHA256, ErrNoBank)
	}
	pcrs := make(map[int]Digest)
	for i := range l.Events {
		e := &l.Events[i]
		if !e.Extends() {
			continue
		}
		value, begun := pcrs[e.PCR]
		if !begun {
			value = l.initial(e.PCR)
		}
		pcrs[e.PCR] = Extend(value, e.Digest)
	}
	return pcrs, nil
}

// ReplayBank is Replay in any bank, for reading and comparing logs; verdicts rest
// on SHA-256 only.
func (l *EventLog) ReplayBank(alg Algorithm) (map[int][]byte, error) {
	h := alg.hash()
	if h == nil || !l.has(alg) {
		return nil, fmt.Errorf("replay event log, %s: %w", alg, ErrNoBank)
	}
	pcrs := make(map[int][]byte)
	for i := range l.Events {
		e := &l.Events[i]
		if !e.Extends() {
			continue
		}
		value, begun := pcrs[e.PCR]
		if !begun {
			value = initialPCR(e.PCR, alg.size(), l.Locality)
		}
		h.Reset()
		h.Write(value)
		h.Write(e.bank(alg))
		pcrs[e.PCR] = h.Sum(nil)
	}
	return pcrs, nil
}

// has reports whether the header names the bank and every event that was extended
// has it.
func (l *EventLog) has(alg Algorithm) bool {
	if l.Format == FormatLegacy {
		return alg == AlgSHA1
	}
	if !slices.Contains(l.Banks, alg) {
		return false
	}
	for i := range l.Events {
		if e := &l.Events[i]; e.Extends() && e.bank(alg) == nil {
			return false
		}
	}
	return true
}

func (l *EventLog) initial(pcr int) Digest {
	return Digest(initialPCR(pcr, sha256.Size, l.Locality))
}

// initialPCR is the value of a PCR before its first event: PCR 0 carries the
// locality of TPM2_Startup in its last byte, PCRs 17 to 22 are all ones.
func initialPCR(pcr, size, locality int) []byte {
	value := make([]byte, size)
	switch {
	case pcr == 0:
		value[size-1] = byte(locality)
	case pcr >= 17 && pcr <= 22:
		for i := range value {
			value[i] = 0xff
		}
	}
	return value
}

// Extend returns SHA-256(old || with), as TPM2_PCR_Extend does.
func Extend(old, with Digest) Digest {
	var both [2 * sha256.Size]byte
	copy(both[:], old[:])
	copy(both[sha256.Size:], with[:])
	return sha256.Sum256(both[:])
}
