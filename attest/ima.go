package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// IMAFacts say what an IMA list holds up to the quoted PCR 10.
type IMAFacts struct {
	Entries       uint64 `json:"entries"`
	Violations    uint64 `json:"violations,omitempty"` // files opened for writing while being measured: their contents are unknown
	Ahead         uint64 `json:"ahead,omitempty"`      // entries behind the quote; they are not judged
	BootAggregate Digest `json:"boot_aggregate"`       // of the first entry; zero if it has none in SHA-256
}

// IMAEntry is one measurement of the kernel.
type IMAEntry struct {
	Template  string // "ima-ng", "ima-sig", ...
	Digest    []byte // of the file, with its algorithm in Algorithm
	Algorithm string // "sha256"; "sha1" for template "ima"
	Path      string // as the kernel names it; not unique
	Violation bool   // the file was being written: its digest is unknown
	extend    Digest // what went into PCR 10, SHA-256 bank
}

// ErrIMAAhead is the error of ReplayIMA if no prefix of the list gives the PCR.
var ErrIMAAhead = errors.New("no prefix of the IMA list gives PCR 10")

// ReplayIMA reads a binary IMA list (the kernel's binary_runtime_measurements,
// little endian) and finds the prefix whose replay is quoted, PCR 10 of the
// SHA-256 bank. The list may run ahead of the quote, since it is read later.
// each, if not nil, is called for every entry of that prefix, in order, before
// it is known whether the prefix holds.
func ReplayIMA(list []byte, quoted Digest, each func(*IMAEntry)) (IMAFacts, error) {
	var facts, found IMAFacts
	if len(list) > maxIMALog {
		return found, fmt.Errorf("replay IMA list: %d bytes, at most %d are allowed", len(list), maxIMALog)
	}
	var pcr Digest
	matched := pcr == quoted
	c := &cursor{data: list, order: binary.LittleEndian}
	for c.left() > 0 {
		entry, err := readIMA(c)
		if err != nil {
			return found, fmt.Errorf("replay IMA list: entry %d: %w", facts.Entries, err)
		}
		if entry == nil { // another PCR's
			continue
		}
		if facts.Entries == 0 && entry.Path == "boot_aggregate" && len(entry.Digest) == sha256.Size {
			facts.BootAggregate = Digest(entry.Digest)
		}
		facts.Entries++
		if entry.Violation {
			facts.Violations++
		}
		if each != nil && !matched {
			each(entry)
		}
		pcr = Extend(pcr, entry.extend)
		if pcr == quoted {
			found, matched = facts, true
		}
	}
	if !matched {
		return facts, ErrIMAAhead
	}
	found.Ahead = facts.Entries - found.Entries
	return found, nil
}

const imaPCR = 10

// readIMA reads one entry; nil for one that went into another PCR than 10.
func readIMA(c *cursor) (*IMAEntry, error) {
	pcr := c.u32("PCR")
	sha1 := c.take(20, "template digest")
	at := c.pos
	nameSize := c.u32("template name length")
	if c.err == nil && (nameSize == 0 || nameSize > maxIMAName) {
		c.fail(at, "template name of %d bytes", nameSize)
	}
	entry := &IMAEntry{Template: string(c.take(uint64(nameSize), "template name"))}
	var data []byte
	if c.err == nil && entry.Template == "ima" {
		data = readIMALegacy(c, entry)
	} else if c.err == nil {
		at = c.pos
		size := c.u32("template data length")
		if c.err == nil && size > maxIMATemplate {
			c.fail(at, "template data of %d bytes", size)
		}
		data = c.take(uint64(size), "template data")
		if c.err == nil {
			entry.readTemplate(data)
		}
	}
	if c.err != nil {
		return nil, c.err
	}
	entry.setExtend(sha1, data)
	if pcr != imaPCR {
		return nil, nil
	}
	return entry, nil
}

// setExtend computes what the kernel extends: the SHA-256 of the template data
// since Linux 5.8, all ones for a violation, whose recorded digest is zero.
func (e *IMAEntry) setExtend(sha1, data []byte) {
	if bytes.Equal(sha1, make([]byte, len(sha1))) {
		e.Violation = true
		for i := range e.extend {
			e.extend[i] = 0xff
		}
		return
	}
	e.extend = sha256.Sum256(data)
}

// readIMALegacy reads the data of template "ima": a SHA-1 digest and a name. The
// kernel hashes the name padded with zeros to 256 bytes.
func readIMALegacy(c *cursor, e *IMAEntry) []byte {
	const padded = 256
	e.Algorithm, e.Digest = "sha1", c.take(20, "file digest")
	at := c.pos
	size := c.u32("file name length")
	if c.err == nil && size >= padded {
		c.fail(at, "file name of %d bytes", size)
	}
	name := c.take(uint64(size), "file name")
	if c.err != nil {
		return nil
	}
	e.Path = string(bytes.TrimRight(name, "\x00"))
	data := make([]byte, 20+padded)
	copy(data, e.Digest)
	copy(data[20:], name)
	return data
}

// readTemplate reads the fields d-ng and n-ng, which all other templates of the
// kernel begin with. Templates that it can't read are replayed all the same.
func (e *IMAEntry) readTemplate(data []byte) {
	c := &cursor{data: data, order: binary.LittleEndian}
	digest := c.take(uint64(c.u32("digest length")), "digest")
	name := c.take(uint64(c.u32("name length")), "name")
	algorithm, value, ok := bytes.Cut(digest, []byte(":\x00"))
	if c.err != nil || !ok {
		return
	}
	e.Algorithm, e.Digest = string(algorithm), value
	e.Path = string(bytes.TrimRight(name, "\x00"))
}

// bootAggregates are what the kernel may put in the first entry: SHA-256 over PCRs
// 0 to 9 since Linux 5.8, over 0 to 7 before.
func bootAggregates(pcrs map[int]Digest) [2]Digest {
	var values []byte
	var out [2]Digest
	for pcr := range 10 {
		value := pcrs[pcr]
		values = append(values, value[:]...)
		if pcr == 7 {
			out[1] = sha256.Sum256(values)
		}
	}
	out[0] = sha256.Sum256(values)
	return out
}
