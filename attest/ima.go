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
	Entries       uint64    `json:"entries"`
	Violations    uint64    `json:"violations,omitempty"`     // files opened for writing while being measured: their contents are unknown
	Ahead         uint64    `json:"ahead,omitempty"`          // entries behind the quote; they are not judged
	Pending       bool      `json:"pending,omitempty"`        // more of the list is to come before anything is proven
	Foreign       bool      `json:"foreign,omitempty"`        // boot_aggregate is not of the quoted PCRs
	BootAggregate Digest    `json:"boot_aggregate,omitzero"`  // of the first entry, where it was sent now and is SHA-256
	Judged        bool      `json:"judged,omitempty"`         // by the policy's lists and keys
	Unlisted      uint64    `json:"unlisted,omitempty"`       // files that they do not allow
	BadSignatures uint64    `json:"bad_signatures,omitempty"` // files that they do not allow, with a signature that is none
	First         []IMAFile `json:"first,omitempty"`          // the first few that break each rule
}

// IMAFile is one measured file, in words.
type IMAFile struct {
	Entry  uint64 `json:"entry"`
	Path   string `json:"path"`           // as the kernel names it; not unique
	Digest string `json:"digest"`         // "sha256:" and hex
	Rule   string `json:"rule,omitempty"` // that it breaks
	Why    string `json:"why"`            // it is not allowed
}

// ErrIMAAhead is the error of a replay if no prefix of the list gives the PCR.
var ErrIMAAhead = errors.New("no prefix of the IMA list gives PCR 10")

const imaPCR = 10

// imaEntry is one measurement of the kernel. All slices are parts of the list.
type imaEntry struct {
	pcr       uint32
	template  []byte // "ima-ng", "ima-sig", ...
	kind      []byte // "verity" for a digest of fs-verity, else "ima" or empty
	algorithm []byte // of digest, such as "sha256"
	digest    []byte // of the file; nil if the template's fields can't be read
	path      []byte
	signature []byte // security.ima, if the template has it
	modsig    []byte // signature that was appended to the file, in CMS
	modDigest []byte // of the file without it, as digests stand in templates
	violation bool   // the file was being written: its digest is unknown
	data      []byte // what the kernel hashes for each bank
}

// read reads the next entry of a binary list (the kernel's
// binary_runtime_measurements, little endian).
func (e *imaEntry) read(c *cursor) { e.readBank(c, 20) }

// readBank is read of a list whose template digests have size bytes.
func (e *imaEntry) readBank(c *cursor, size int) {
	*e = imaEntry{pcr: c.u32("PCR")}
	recorded := c.take(uint64(size), "template digest")
	e.violation = c.err == nil && isZero(recorded)
	at := c.pos
	length := c.u32("template name length")
	if c.err == nil && (length == 0 || length > maxIMAName) {
		c.fail(at, "template name of %d bytes", length)
	}
	e.template = c.take(uint64(length), "template name")
	if string(e.template) == "ima" {
		e.readLegacy(c)
		return
	}
	at = c.pos
	length = c.u32("template data length")
	if c.err == nil && length > maxIMATemplate {
		c.fail(at, "template data of %d bytes", length)
	}
	e.data = c.take(uint64(length), "template data")
	if c.err == nil {
		e.readFields()
	}
}

func isZero(data []byte) bool {
	for _, b := range data {
		if b != 0 {
			return false
		}
	}
	return true
}

// extend is what goes into PCR 10 of the SHA-256 bank: the digest of the template
// data since Linux 5.8, all ones for a violation, whose recorded digest is zero.
func (e *imaEntry) extend() Digest {
	if e.violation {
		return Digest(bytes.Repeat([]byte{0xff}, sha256.Size))
	}
	return sha256.Sum256(e.data)
}

// readLegacy reads the data of template "ima": a SHA-1 digest and a name. The
// kernel hashes the name padded with zeros to 256 bytes.
func (e *imaEntry) readLegacy(c *cursor) {
	const padded = 256
	e.algorithm, e.digest = []byte("sha1"), c.take(20, "file digest")
	at := c.pos
	size := c.u32("file name length")
	if c.err == nil && size >= padded {
		c.fail(at, "file name of %d bytes", size)
	}
	name := c.take(uint64(size), "file name")
	e.path = bytes.TrimRight(name, "\x00")
	e.data = make([]byte, 20+padded)
	copy(e.data, e.digest)
	copy(e.data[20:], name)
}

// readFields reads d-ng or d-ngv2, n-ng and, where there is one, sig, as all
// templates of the kernel but "ima" begin. Fields that can't be read leave the entry
// without path and digest: it is replayed, and no reference allows it.
func (e *imaEntry) readFields() {
	c := &cursor{data: e.data, order: binary.LittleEndian}
	digest := c.take(uint64(c.u32("digest length")), "digest")
	path := c.take(uint64(c.u32("name length")), "name")
	switch string(e.template) {
	case "ima-sig", "ima-sigv2", "ima-modsig":
		e.signature = c.take(uint64(c.u32("signature length")), "signature")
	}
	if string(e.template) == "ima-modsig" {
		e.modDigest = c.take(uint64(c.u32("digest length")), "digest")
		e.modsig = c.take(uint64(c.u32("signature length")), "signature")
	}
	name, value, ok := bytes.Cut(digest, []byte(":\x00"))
	if c.err != nil || !ok {
		return
	}
	if kind, rest, ok := bytes.Cut(name, []byte(":")); ok {
		e.kind, name = kind, rest
	}
	e.algorithm, e.digest, e.path = name, value, bytes.TrimSuffix(path, []byte{0})
}

// describe is the entry for people.
func (e *imaEntry) describe(n uint64, rule, why string) IMAFile {
	return IMAFile{Entry: n, Path: clean(string(e.path)), Digest: clean(fmt.Sprintf("%s:%x", e.algorithm, e.digest)), Rule: rule, Why: why}
}

// ReplayIMA replays a whole binary list of one boot and finds the prefix whose
// replay is quoted, PCR 10 of the SHA-256 bank. The list may run ahead of the quote,
// since it is read later.
func ReplayIMA(list []byte, quoted Digest) (IMAFacts, error) {
	facts, _, err := new(IMAState).replay(list, imaTarget{quoted: quoted})
	return facts, err
}

// ReplayIMABank computes PCR 10 after the whole list in any bank, for reading and
// comparing lists; verdicts rest on SHA-256 only.
func ReplayIMABank(list []byte, alg Algorithm) ([]byte, error) {
	h := alg.hash()
	if h == nil {
		return nil, fmt.Errorf("replay IMA list, %s: %w", alg, ErrNoBank)
	}
	pcr := make([]byte, alg.size())
	c := &cursor{data: list, order: binary.LittleEndian}
	var entry imaEntry
	for c.left() > 0 {
		if entry.read(c); c.err != nil {
			return nil, fmt.Errorf("replay IMA list: %w", c.err)
		}
		if entry.pcr != imaPCR {
			continue
		}
		value := bytes.Repeat([]byte{0xff}, alg.size())
		if !entry.violation {
			h.Reset()
			h.Write(entry.data)
			value = h.Sum(nil)
		}
		h.Reset()
		h.Write(pcr)
		h.Write(value)
		pcr = h.Sum(nil)
	}
	return pcr, nil
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
