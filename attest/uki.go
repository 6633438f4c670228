package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

const (
	maxPESections = 96 // count, as Windows loads
	peDirectory   = 4  // index of the certificate table among the data directories
)

// peFile is what measuring a PE file needs of it (Microsoft PE and COFF
// Specification, "File Headers").
type peFile struct {
	data         []byte
	checksum     int // offset of the field
	certificates int // offset of the directory entry
	certSize     int
	headers      int // SizeOfHeaders
	sections     []peSection
}

type peSection struct {
	name            string
	offset, rawSize int
	virtualSize     int
}

// Authenticode returns the SHA-256 image hash of a PE file: what the firmware
// extends into PCR 4 for it (Windows Authenticode Portable Executable Signature
// Format, "Calculating the PE Image Hash"). Signing the file does not change it.
func Authenticode(file []byte) (Digest, error) {
	pe, err := parsePE(file)
	if err != nil {
		return Digest{}, fmt.Errorf("hash PE file: %w", err)
	}
	h := sha256.New()
	h.Write(file[:pe.checksum])
	h.Write(file[pe.checksum+4 : pe.certificates])
	h.Write(file[pe.certificates+8 : pe.headers])
	end := pe.headers
	for _, s := range slices.SortedFunc(slices.Values(pe.sections), func(a, b peSection) int { return a.offset - b.offset }) {
		h.Write(file[s.offset : s.offset+s.rawSize])
		end += s.rawSize
	}
	if rest := len(file) - pe.certSize; end < rest {
		h.Write(file[end:rest])
	}
	return Digest(h.Sum(nil)), nil
}

// ReadUKI says what booting a unified kernel image measures, started by loader, a
// systemd-boot, or by the firmware itself if loader is nil. The command line is the
// image's own; a device without Secure Boot may be given another one, which no
// release then lists. The paths in Boot are left to the caller.
func ReadUKI(uki, loader []byte) (Boot, error) {
	pe, err := parsePE(uki)
	if err != nil {
		return Boot{}, fmt.Errorf("read UKI: %w", err)
	}
	var b Boot
	for _, name := range sectionOrder() {
		content := pe.section(name)
		if content == nil || !pe.measures(name) {
			continue
		}
		b.Sections = append(b.Sections, Section{Name: name, Digest: sha256.Sum256(content)})
		switch name {
		case ".cmdline":
			b.CommandLine = string(bytes.TrimRight(content, "\x00\n"))
		case ".linux":
			if b.Kernel, err = Authenticode(content); err != nil {
				return Boot{}, fmt.Errorf("read kernel of UKI: %w", err)
			}
		}
	}
	if b.Kernel.IsZero() {
		return Boot{}, errors.New("read UKI: it has no section .linux: this is no unified kernel image")
	}
	if b.UKI, err = Authenticode(uki); err != nil {
		return Boot{}, err
	}
	if loader == nil {
		return b, nil
	}
	if b.Loader, err = Authenticode(loader); err != nil {
		return Boot{}, fmt.Errorf("read boot loader: %w", err)
	}
	return b, nil
}

// PCRs predicts the values of PCRs 4, 11, 12 and 13 after b was booted by firmware
// that measures as the PC Client Platform Firmware Profile 1.06 says, section 3.3.4,
// up to and with these boot phases.
func (b Boot) PCRs(phases []string) map[int]Digest {
	values := make(map[int]Digest)
	extend := func(pcr int, digest Digest) { values[pcr] = Extend(values[pcr], digest) }
	extend(4, sha256.Sum256([]byte("Calling EFI Application from Boot Option")))
	extend(4, sha256.Sum256(make([]byte, 4)))   // the separator
	values[12], values[13] = Digest{}, Digest{} // nothing may be measured there
	for _, event := range BootEvents(b) {
		if pcr := event.PCR; pcr == 4 || pcr == 11 || pcr == 12 {
			extend(pcr, event.Digest)
		}
	}
	for _, phase := range phases {
		extend(11, sha256.Sum256([]byte(phase)))
	}
	return values
}

// section returns the contents of a section as systemd-stub measures them: the
// virtual size, nil if there is no such section.
func (pe *peFile) section(name string) []byte {
	for _, s := range pe.sections {
		if s.name == name && s.virtualSize <= s.rawSize {
			return pe.data[s.offset : s.offset+s.virtualSize]
		}
	}
	return nil
}

// measures says whether the image's systemd-stub measures a section: each version
// does so with those whose names it holds, as C strings. That of version 252 does
// not know .sbat, which its image has. A stub that does not name itself in .sdmagic
// is taken for one that knows all.
func (pe *peFile) measures(name string) bool {
	if pe.section(".sdmagic") == nil {
		return true
	}
	for _, own := range []string{".text", ".rodata", ".data"} {
		if bytes.Contains(pe.section(own), append([]byte(name), 0)) {
			return true
		}
	}
	return false
}

func parsePE(file []byte) (*peFile, error) {
	c := &cursor{data: file, order: binary.LittleEndian}
	if len(file) < 64 || string(file[:2]) != "MZ" {
		return nil, errors.New("it does not begin as a PE file")
	}
	header := int(binary.LittleEndian.Uint32(file[60:]))
	if header < 64 || header > len(file)-24 || string(file[header:header+4]) != "PE\x00\x00" {
		return nil, errors.New("it has no PE header where it should")
	}
	c.pos = header + 6
	count := int(c.u16("number of sections"))
	c.pos = header + 20
	optional := int(c.u16("size of optional header"))
	start := header + 24
	directories := map[uint16]int{0x10b: 96, 0x20b: 112}
	c.pos = start
	first, known := directories[c.u16("magic")]
	if c.err != nil || !known || optional < first+8*(peDirectory+1) || count > maxPESections || start+optional > len(file) {
		return nil, errors.New("its optional header is not that of a PE32 or PE32+ file")
	}
	pe := &peFile{data: file, checksum: start + 64, certificates: start + first + 8*peDirectory}
	c.pos = start + 60
	pe.headers = int(c.u32("size of headers"))
	c.pos = pe.certificates + 4
	pe.certSize = int(c.u32("size of certificate table"))
	if c.err != nil || pe.headers > len(file) || pe.headers < pe.certificates+8 || pe.certSize > len(file)-pe.headers {
		return nil, errors.New("its headers or certificates lie outside of the file")
	}
	c.pos = start + optional
	return pe, pe.readSections(c, count)
}

func (pe *peFile) readSections(c *cursor, count int) error {
	for range count {
		name := c.take(8, "section name")
		virtual := int(c.u32("virtual size"))
		c.u32("virtual address")
		raw := int(c.u32("size of raw data"))
		offset := int(c.u32("pointer to raw data"))
		c.take(16, "section attributes")
		if c.err != nil {
			return c.err
		}
		if raw > len(pe.data) || offset > len(pe.data)-raw {
			return fmt.Errorf("section %q lies outside of the file", name)
		}
		pe.sections = append(pe.sections, peSection{name: string(bytes.TrimRight(name, "\x00")), offset: offset, rawSize: raw, virtualSize: virtual})
	}
	return nil
}
