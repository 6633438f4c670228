// Package gotpm reads attestations in the form of go-tpm-tools: a protocol buffer,
// attest.Attestation, as `gotpm attest` writes it.
//
// Its promise: what Parse returns was in the bytes, once; what it leaves out (other
// banks, certificates, reports of confidential computing) vouches for nothing here.
package gotpm

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/gatewarden/gatewarden/attest"
)

const (
	// MaxSize is the most that Parse takes, in bytes.
	MaxSize   = 4 << 20
	maxQuotes = 8 // count

	bankSHA256 = 0x000b // TPM_ALG_SHA256, as enum tpm.HashAlgo has it
)

// Wire types of protocol buffers.
const (
	wireVarint = 0
	wire64     = 1
	wireBytes  = 2
	wire32     = 5
)

// Parse reads an attestation and returns what its quote over the SHA-256 bank needs.
func Parse(data []byte) (attest.Foreign, error) {
	if len(data) > MaxSize {
		return attest.Foreign{}, fmt.Errorf("read attestation: %d bytes, at most %d are allowed", len(data), MaxSize)
	}
	p := &parser{seen: make(map[uint64]bool)}
	if err := walk(data, p.field); err != nil {
		return attest.Foreign{}, fmt.Errorf("read attestation: %w", err)
	}
	if p.Quote == nil {
		return attest.Foreign{}, errors.New("read attestation: it has no quote over the SHA-256 bank")
	}
	return p.Foreign, nil
}

// parser takes in attest.Attestation field by field.
type parser struct {
	attest.Foreign
	seen   map[uint64]bool
	quotes int
}

func (p *parser) field(number, _ uint64, body []byte) error {
	switch number {
	case 1, 3: // ak_pub, event_log
		if body == nil || p.seen[number] {
			return fmt.Errorf("field %d is not one string of bytes", number)
		}
		p.seen[number] = true
		if number == 1 {
			p.AK = body
		} else {
			p.EventLog = body
		}
	case 2: // quotes
		if p.quotes++; p.quotes > maxQuotes {
			return fmt.Errorf("more than %d quotes", maxQuotes)
		}
		one, bank, err := parseQuote(body)
		switch {
		case err != nil:
			return fmt.Errorf("quote %d: %w", p.quotes, err)
		case bank != bankSHA256:
			return nil
		case p.Quote != nil || one.Quote == nil:
			return errors.New("not exactly one quote over the SHA-256 bank")
		}
		p.Quote, p.Signature, p.PCRs = one.Quote, one.Signature, one.PCRs
	}
	return nil
}

// parseQuote reads tpm.Quote.
func parseQuote(data []byte) (f attest.Foreign, bank uint64, err error) {
	seen := make(map[uint64]bool)
	err = walk(data, func(number, _ uint64, body []byte) error {
		if number > 3 {
			return nil
		}
		if body == nil || seen[number] {
			return fmt.Errorf("field %d is not one string of bytes", number)
		}
		seen[number] = true
		switch number {
		case 1:
			f.Quote = body
		case 2:
			f.Signature = body
		case 3:
			f.PCRs, bank, err = parsePCRs(body)
			return err
		}
		return nil
	})
	return f, bank, err
}

// parsePCRs reads tpm.PCRs. Values of other banks than SHA-256 are left out.
func parsePCRs(data []byte) (map[int]attest.Digest, uint64, error) {
	pcrs, bank, count := make(map[int]attest.Digest), uint64(0), 0
	err := walk(data, func(number, value uint64, body []byte) error {
		switch number {
		case 1:
			bank = value
		case 2:
			pcr, digest, err := parsePCR(body)
			if err != nil {
				return err
			}
			if count++; pcr >= 32 || count > 32 {
				return fmt.Errorf("PCR %d", pcr)
			}
			if _, twice := pcrs[int(pcr)]; twice {
				return fmt.Errorf("PCR %d twice", pcr)
			}
			if len(digest) == sha256.Size {
				pcrs[int(pcr)] = attest.Digest(digest)
			}
		}
		return nil
	})
	return pcrs, bank, err
}

// parsePCR reads an entry of the map; a key of 0 may be left out.
func parsePCR(data []byte) (pcr uint64, digest []byte, err error) {
	err = walk(data, func(number, value uint64, body []byte) error {
		switch number {
		case 1:
			pcr = value
		case 2:
			digest = body
		}
		return nil
	})
	return pcr, digest, err
}

// walk calls each for every field of a message: value of a number, body of bytes,
// which is nil for a number.
func walk(data []byte, each func(number, value uint64, body []byte) error) error {
	whole := len(data)
	for len(data) > 0 {
		at := whole - len(data)
		tag, n := binary.Uvarint(data)
		if n <= 0 || tag>>3 == 0 || tag>>3 > 1<<29 {
			return fmt.Errorf("at byte %d: no field begins here", at)
		}
		data = data[n:]
		var value uint64
		var body []byte
		switch tag & 7 {
		case wireVarint:
			if value, n = binary.Uvarint(data); n <= 0 {
				return fmt.Errorf("at byte %d: number of field %d is cut off", at, tag>>3)
			}
		case wireBytes:
			size, m := binary.Uvarint(data)
			if m <= 0 || size > uint64(len(data)-m) {
				return fmt.Errorf("at byte %d: field %d has more bytes than remain", at, tag>>3)
			}
			n = m + int(size)
			body = data[m:n:n]
		case wire64:
			n = 8
		case wire32:
			n = 4
		default:
			return fmt.Errorf("at byte %d: field %d is of wire type %d", at, tag>>3, tag&7)
		}
		if n > len(data) {
			return fmt.Errorf("at byte %d: field %d is cut off", at, tag>>3)
		}
		data = data[n:]
		if err := each(tag>>3, value, body); err != nil {
			return err
		}
	}
	return nil
}
