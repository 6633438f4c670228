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
	x.unread(e, ipl(e))
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
const (
	loadOptionsTag = 0x8f3b22ed
	initrdTag      = 0x8f3b22ec
)

// loaded reads PCR 9: the kernel's load options, and otherwise files, whatever an
// event claims to be.
func (x *extractor) loaded(e *LogEvent) {
	name := ipl(e)
	if e.Type == evEventTag && len(e.Data) >= 8 {
		switch binary.LittleEndian.Uint32(e.Data) {
		case loadOptionsTag:
			x.facts.LoadOptions = append(x.facts.LoadOptions, e.measurement("kernel load options"))
			return
		case initrdTag:
			name = "initrd"
		}
	}
	x.facts.Files = append(x.facts.Files, Loaded{Event: e.Index, Digest: e.Digest, Described: clean(name)})
}

// grubPrefixes are what GRUB 2, and older builds of distributions, put before the
// text that they extend; no digest covers them. The value is whether it is the
// kernel's command line.
func grubPrefixes() map[string]bool {
	return map[string]bool{
		"grub_cmd: ": false, "grub_cmd ": false, "module_cmdline: ": false,
		"kernel_cmdline: ": true, "grub_kernel_cmdline ": true,
	}
}

// grub reads PCR 8: what GRUB ran, without a terminating zero, and the command line
// that systemd-boot before 251 measured there.
func (x *extractor) grub(e *LogEvent) {
	switch text, kernel, ok := grubText(e); {
	case ok && kernel:
		x.facts.CommandLines = append(x.facts.CommandLines, CommandLine{PCR: e.PCR, Event: e.Index, Digest: e.Digest, Text: text})
		return
	case ok:
		x.facts.GRUB = append(x.facts.GRUB, text)
		return
	}
	if text, ok := utf16Text(e.Data); ok && e.covers(utf16Bytes(text)) {
		x.facts.CommandLines = append(x.facts.CommandLines, CommandLine{PCR: e.PCR, Event: e.Index, Digest: e.Digest, Text: text})
		return
	}
	x.unread(e, ipl(e))
}

// grubText is what GRUB ran, or the kernel's command line. ok is false if the event
// does not hold what was measured.
func grubText(e *LogEvent) (text string, kernel, ok bool) {
	data := string(bytes.TrimRight(e.Data, "\x00"))
	for prefix, kernel := range grubPrefixes() {
		text, found := strings.CutPrefix(data, prefix)
		if digests := grubDigests(text); found && slices.Contains(digests[:], e.Digest) {
			return strings.ToValidUTF8(text, "?"), kernel, true
		}
	}
	return "", false, false
}

// ipl is the text of an EV_IPL event: ASCII or UTF-16, whatever it is.
func ipl(e *LogEvent) string {
	ascii := string(bytes.TrimRight(e.Data, "\x00"))
	// Commands of GRUB have line feeds; by its first letter it is ASCII all the same.
	if text, ok := utf16Text(e.Data); ok && len(e.Data) >= 4 && !isPrintable(ascii[:min(2, len(ascii))]) {
		return text
	}
	return strings.ToValidUTF8(ascii, "?")
}
