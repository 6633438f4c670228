package tpmtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Faults stands between a program and a chip: it counts commands and makes some of
// them fail. Safe for concurrent use.
type Faults struct {
	next transport.TPM

	mu     sync.Mutex
	count  int
	codes  []tpm2.TPMCC
	faults []planned
}

type planned struct {
	match func(n int, code tpm2.TPMCC) bool
	left  int // times; below 0: always
	fault Fault
}

// Fault replaces the exchange of one command.
type Fault func(next transport.TPM, command []byte) ([]byte, error)

// NewFaults wraps a transport; without faults it only counts.
func NewFaults(next transport.TPM) *Faults { return &Faults{next: next} }

// At makes the nth command from now on (from 1) fail, once.
func (f *Faults) At(n int, fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n += f.count
	f.faults = append(f.faults, planned{func(at int, _ tpm2.TPMCC) bool { return at == n }, 1, fault})
}

// On makes the next so many commands with a code fail; times below 0 means all.
func (f *Faults) On(code tpm2.TPMCC, times int, fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, planned{func(_ int, c tpm2.TPMCC) bool { return c == code }, times, fault})
}

// Clear takes all planned faults back.
func (f *Faults) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = nil
}

// Codes lists the commands that arrived, in order.
func (f *Faults) Codes() []tpm2.TPMCC {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]tpm2.TPMCC(nil), f.codes...)
}

// Reset empties the list that Codes gives.
func (f *Faults) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.codes = nil
}

// Send implements transport.TPM.
func (f *Faults) Send(command []byte) ([]byte, error) {
	if len(command) < headerSize {
		return nil, fmt.Errorf("command of %d bytes", len(command))
	}
	if fault := f.arrived(tpm2.TPMCC(binary.BigEndian.Uint32(command[6:10]))); fault != nil {
		return fault(f.next, command)
	}
	return f.next.Send(command)
}

func (f *Faults) arrived(code tpm2.TPMCC) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count++
	f.codes = append(f.codes, code)
	for i := range f.faults {
		p := &f.faults[i]
		if p.left != 0 && p.match(f.count, code) {
			p.left--
			return p.fault
		}
	}
	return nil
}

// Close closes the wrapped transport if it can be closed.
func (f *Faults) Close() error {
	if c, ok := f.next.(transport.TPMCloser); ok {
		return c.Close()
	}
	return nil
}

// ResponseCode answers with a code instead of carrying the command out.
func ResponseCode(rc tpm2.TPMRC) Fault {
	return func(transport.TPM, []byte) ([]byte, error) { return failure(rc), nil }
}

// Stall does not answer until release is closed; then the command is carried out.
func Stall(release <-chan struct{}) Fault {
	return func(next transport.TPM, command []byte) ([]byte, error) {
		<-release
		return next.Send(command)
	}
}

// Garbage answers with these bytes.
func Garbage(response []byte) Fault {
	return func(transport.TPM, []byte) ([]byte, error) { return response, nil }
}

// Short carries the command out and gives only the first n bytes of the response,
// with the header that says more.
func Short(n int) Fault {
	return func(next transport.TPM, command []byte) ([]byte, error) {
		response, err := next.Send(command)
		return response[:min(n, len(response))], err
	}
}

// Alter carries the command out and lets edit change the response.
func Alter(edit func(response []byte) []byte) Fault {
	return func(next transport.TPM, command []byte) ([]byte, error) {
		response, err := next.Send(command)
		if err != nil {
			return nil, err
		}
		return edit(response), nil
	}
}

// AlterCommand lets edit change the command before the chip gets it.
func AlterCommand(edit func(command []byte) []byte) Fault {
	return func(next transport.TPM, command []byte) ([]byte, error) {
		return next.Send(edit(slices.Clone(command)))
	}
}

// FlipBit alters one bit of the response, or of the command: in the byte at place,
// counted round and round. The size field is left out: one that lies only makes an
// emulator wait for more.
func FlipBit(place, bit int, command bool) Fault {
	flip := func(message []byte) []byte {
		at := place % len(message)
		if at >= 2 && at < 6 {
			at += 4
		}
		message[at] ^= 1 << bit
		return message
	}
	if command {
		return AlterCommand(flip)
	}
	return Alter(flip)
}

// Cut breaks the connection: before the command reaches the chip, or after.
func Cut(after bool) Fault {
	return func(next transport.TPM, command []byte) ([]byte, error) {
		if after {
			_, _ = next.Send(command)
		}
		return nil, errors.New("connection cut")
	}
}

// PowerCut switches the machine off in the middle of the command.
func PowerCut(p *Power) Fault {
	return func(next transport.TPM, command []byte) ([]byte, error) {
		cut := make(chan error, 1)
		go func() { cut <- p.Kill() }()
		response, err := next.Send(command)
		<-cut
		return response, err
	}
}

// maxSHA256Data is sizeof(TPMT_HA) on a chip whose largest hash is SHA-256.
const maxSHA256Data = 34

// NewSingleBank makes a chip look as if it knew no hash but SHA-256: it refuses more
// than 34 bytes of qualifying data in a quote or certification, with TPM_RC_SIZE on
// parameter 1.
func NewSingleBank(next transport.TPM) transport.TPM { return singleBank{next} }

type singleBank struct{ next transport.TPM }

func (s singleBank) Send(command []byte) ([]byte, error) {
	handles := 0
	if len(command) >= headerSize {
		switch tpm2.TPMCC(binary.BigEndian.Uint32(command[6:10])) {
		case tpm2.TPMCCQuote:
			handles = 1
		case tpm2.TPMCCCertify:
			handles = 2
		case tpm2.TPMCCNVCertify:
			handles = 3
		}
	}
	if handles > 0 {
		// header, handles, size of the authorisation area, that area, then the data's size
		at := headerSize + 4*handles + 4
		if len(command) >= at {
			at += int(binary.BigEndian.Uint32(command[at-4:]))
		}
		if len(command) >= at+2 && binary.BigEndian.Uint16(command[at:]) > maxSHA256Data {
			const onParameter1 = 0x80 + 0x40 + 0x100
			return failure(0x015 + onParameter1), nil // TPM_RC_SIZE
		}
	}
	return s.next.Send(command)
}

var (
	_ transport.TPMCloser = (*Faults)(nil)
	_ transport.TPM       = singleBank{}
)
