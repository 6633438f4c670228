package attest

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Boot is what a slot with a unified kernel image measures, from the boot loader
// on. The same values make the events that a boot will log and the Release that
// judges it.
type Boot struct {
	Loader      Digest // Authenticode SHA-256 of systemd-boot; zero if the firmware starts the UKI itself
	LoaderPath  string // such as `\EFI\BOOT\BOOTX64.EFI`
	UKI         Digest // Authenticode SHA-256
	UKIPath     string // such as `\EFI\Linux\gw-a.efi`
	Kernel      Digest // Authenticode SHA-256 of the kernel in the UKI
	Sections    []Section
	CommandLine string
	// SecureBoot is whether the firmware lets nothing start that is not signed. Then
	// systemd-stub takes no command line but its own, which is not measured once more,
	// and starts the kernel without the firmware, which measures no third image.
	SecureBoot bool
}

// BootEvents returns the events that systemd-boot, systemd-stub (252) and the
// kernel's EFI stub log for b, in their order, from the first boot application to
// the end of boot services. Boot phases follow in PCR 11 without being logged.
func BootEvents(b Boot) []LogEvent {
	line := utf16Bytes(b.CommandLine)
	var events []LogEvent
	add := func(pcr int, kind EventType, digest Digest, data []byte) {
		events = append(events, LogEvent{Index: len(events), PCR: pcr, Type: kind, Digest: digest, Data: data})
	}
	if !b.Loader.IsZero() {
		add(4, evBootApplication, b.Loader, imageLoad(fileNode(b.LoaderPath)))
	}
	add(4, evBootApplication, b.UKI, imageLoad(fileNode(b.UKIPath)))
	if !b.Loader.IsZero() {
		add(12, evIPL, CommandLineDigest(b.CommandLine), line)
	}
	for _, s := range b.Sections {
		add(11, evIPL, sectionName(s.Name), utf16Bytes(s.Name))
		add(11, evIPL, s.Digest, utf16Bytes(s.Name))
	}
	if !b.SecureBoot {
		add(12, evIPL, CommandLineDigest(b.CommandLine), line)
		add(4, evBootApplication, b.Kernel, imageLoad(payloadNode()))
	}
	add(9, evEventTag, CommandLineDigest(b.CommandLine), eventTag(loadOptionsTag, "LOADED_IMAGE::LoadOptions"))
	for _, action := range []string{"Exit Boot Services Invocation", "Exit Boot Services Returned with Success"} {
		add(5, evEFIAction, Digest(sha256Sum([]byte(action))), []byte(action))
	}
	return events
}

// Release returns the reference values of b.
func (b Boot) Release(product, version string) Release {
	r := Release{Product: product, Version: version, CommandLines: []string{b.CommandLine}, UKISections: make(map[string]Digest)}
	for _, d := range []Digest{b.Loader, b.UKI, b.Kernel} {
		if !d.IsZero() {
			r.BootApplications = append(r.BootApplications, d)
		}
	}
	for _, s := range b.Sections {
		r.UKISections[s.Name] = s.Digest
	}
	return r
}

// Boot is the boot of which Release made r, without paths, which no PCR here holds.
// ok is false for one that can't be told apart: written by hand, or of other parts.
func (r Release) Boot() (b Boot, ok bool) {
	apps := r.BootApplications
	if len(apps) == 3 {
		b.Loader, apps = apps[0], apps[1:]
	}
	if len(apps) != 2 || len(r.CommandLines) != 1 {
		return Boot{}, false
	}
	b.UKI, b.Kernel, b.CommandLine = apps[0], apps[1], r.CommandLines[0]
	for _, name := range sectionOrder() {
		if digest, found := r.UKISections[name]; found {
			b.Sections = append(b.Sections, Section{Name: name, Digest: digest})
		}
	}
	return b, len(b.Sections) > 0 && len(b.Sections) == len(r.UKISections)
}

// CutAtFirstBootApplication returns the beginning of raw, an event log, up to the
// first started boot application: what the firmware alone measured.
func CutAtFirstBootApplication(raw []byte) ([]byte, error) {
	log, err := ParseEventLog(raw)
	if err != nil {
		return nil, fmt.Errorf("cut event log: %w", err)
	}
	for _, e := range log.Events {
		if e.Type == evBootApplication {
			return raw[:e.Offset:e.Offset], nil
		}
	}
	return nil, errors.New("cut event log: it has no boot application")
}

// imageLoad encodes an EFI_IMAGE_LOAD_EVENT (Platform Firmware Profile 1.06,
// section 10.2.3) for an image at no particular address.
func imageLoad(node []byte) []byte {
	path := append(node, 0x7f, 0xff, 4, 0)
	data := make([]byte, 24, 32+len(path))
	data = binary.LittleEndian.AppendUint64(data, uint64(len(path)))
	return append(data, path...)
}

// fileNode is a file path node of a device path (UEFI 2.10, section 10.3.5.4).
func fileNode(path string) []byte {
	name := utf16Bytes(path)
	node := binary.LittleEndian.AppendUint16([]byte{4, 4}, uint16(4+len(name)))
	return append(node, name...)
}

// payloadNode is the vendor node by which systemd-stub names the kernel inside it.
func payloadNode() []byte {
	return []byte{4, 3, 20, 0, 0xf8, 0xd1, 0xc5, 0x55, 0xcd, 0x04, 0xb5, 0x46, 0x8a, 0x20, 0xe5, 0x6c, 0xbb, 0x30, 0x52, 0xd0}
}

// eventTag encodes a TCG_PCClientTaggedEvent (Platform Firmware Profile 1.06,
// section 10.2.7) as Linux logs it.
func eventTag(id uint32, text string) []byte {
	data := binary.LittleEndian.AppendUint32(nil, id)
	data = binary.LittleEndian.AppendUint32(data, uint32(len(text)+1))
	return append(append(data, text...), 0)
}
