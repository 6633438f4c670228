package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"
)

// sectionOrder lists the sections of a UKI that systemd-stub measures, in the
// order in which it does (UAPI group, "Unified Kernel Image", PCR 11).
func sectionOrder() []string {
	return []string{
		".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat",
		".pcrpkey", ".profile", ".dtbauto", ".hwids",
	}
}

// sectionName is what systemd-stub extends before a section's contents: the name
// with its terminating zero.
func sectionName(name string) Digest { return sha256.Sum256(append([]byte(name), 0)) }

// CommandLineDigest is what systemd-stub, systemd-boot and the kernel's EFI stub
// extend for a kernel command line: SHA-256 of its UTF-16 (little endian) form
// with the terminating zero.
func CommandLineDigest(line string) Digest { return sha256.Sum256(utf16Bytes(line)) }

// section reads PCR 11, where name and contents of each section follow each other.
func (x *extractor) section(e *LogEvent) {
	if x.pending != "" {
		x.facts.Sections = append(x.facts.Sections, Section{Event: e.Index, Name: x.pending, Digest: e.Digest})
		x.pending = ""
		return
	}
	if name, ok := utf16Text(e.Data); ok && slices.Contains(sectionOrder(), name) && sectionName(name) == e.Digest {
		x.pending = name
		return
	}
	for _, name := range sectionOrder() {
		if sectionName(name) == e.Digest {
			x.pending = name
			return
		}
	}
	x.facts.Unread = append(x.facts.Unread, e.measurement(ipl(e)))
}

// commandLine takes every event of PCR 12 for a command line: what it is not,
// no release lists.
func (x *extractor) commandLine(e *LogEvent) {
	line := CommandLine{PCR: e.PCR, Event: e.Index, Digest: e.Digest}
	if text, ok := utf16Text(e.Data); ok && e.covers(utf16Bytes(text)) {
		line.Text = text
	} else {
		line.Described = clean(ipl(e))
	}
	x.facts.CommandLines = append(x.facts.CommandLines, line)
}

// Tag of the event by which the kernel's EFI stub measures its load options into
// PCR 9 (Linux, drivers/firmware/efi/libstub).
const loadOptionsTag = 0x8f3b22ed

func (x *extractor) loadOptions(e *LogEvent) {
	if e.Type == evEventTag && len(e.Data) >= 8 && binary.LittleEndian.Uint32(e.Data) == loadOptionsTag {
		x.facts.LoadOptions = append(x.facts.LoadOptions, e.measurement("kernel load options"))
	}
}

// grub reads PCR 8 as GRUB 2 measures it: a prefix that no digest covers, then
// the text that is extended, without a terminating zero.
func (x *extractor) grub(e *LogEvent) {
	data := bytes.TrimRight(e.Data, "\x00")
	prefix, text, ok := bytes.Cut(data, []byte(": "))
	if !ok {
		prefix, text, _ = bytes.Cut(data, []byte(" ")) // before GRUB 2.04
	}
	switch kind := string(prefix); {
	case (kind == "grub_cmd" || kind == "module_cmdline") && e.covers(text):
		x.facts.GRUB = append(x.facts.GRUB, strings.ToValidUTF8(string(text), "?"))
	case kind == "kernel_cmdline" && e.covers(text):
		x.facts.CommandLines = append(x.facts.CommandLines,
			CommandLine{PCR: e.PCR, Event: e.Index, Digest: e.Digest, Text: strings.ToValidUTF8(string(text), "?")})
	default:
		x.facts.Unread = append(x.facts.Unread, e.measurement(ipl(e)))
	}
}

// ipl is the text of an EV_IPL event: UTF-16 or ASCII, whatever it is.
func ipl(e *LogEvent) string {
	if text, ok := utf16Text(e.Data); ok && len(e.Data) >= 4 {
		return text
	}
	return strings.ToValidUTF8(string(bytes.TrimRight(e.Data, "\x00")), "?")
}
