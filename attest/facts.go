package attest

import (
	"crypto/sha256"
	"slices"
)

// Facts are what events say that a quote confirmed. Text that no digest covers
// is in fields named Described and decides nothing. JSON-encodable.
type Facts struct {
	Release          string           `json:"release,omitempty"`       // that the boot matches whole
	FirmwareName     string           `json:"firmware_name,omitempty"` // of the approved FirmwareSet that it matches
	FirmwareVersion  string           `json:"firmware_version,omitempty"`
	Firmware         []Measurement    `json:"firmware"`               // PCRs 0 and 2, in the order of the log
	SecureBoot       string           `json:"secure_boot"`            // "on", "off" or "unknown"
	Keys             []Variable       `json:"keys,omitempty"`         // PK, KEK, db, dbx and the like: PCR 7 before its separator
	Authorities      []Variable       `json:"authorities,omitempty"`  // what verified the boot: PCR 7 behind its separator
	Shim             *Shim            `json:"shim,omitempty"`         // nil if no shim took part
	MOK              []Loaded         `json:"mok,omitempty"`          // keys and hashes of the owner of the machine: PCR 14
	BootVariables    []Variable       `json:"boot_vars,omitempty"`    // PCR 1
	OptionROMs       []Application    `json:"option_roms,omitempty"`  // drivers of PCR 2, which Firmware has too
	Disks            []PartitionTable `json:"disks,omitempty"`        // PCR 5
	Applications     []Application    `json:"applications,omitempty"` // PCR 4, in order: all but the firmware's own marks
	CommandLines     []CommandLine    `json:"command_lines,omitempty"`
	LoadOptions      []Measurement    `json:"load_options,omitempty"` // what the kernel says it was started with: PCR 9
	GRUB             []string         `json:"grub,omitempty"`         // commands that GRUB ran: PCR 8
	Files            []Loaded         `json:"files,omitempty"`        // what boot loader and kernel read: PCR 9
	Sections         []Section        `json:"sections,omitempty"`     // of the UKI: PCR 11, in order
	Phases           []string         `json:"phases,omitempty"`       // boot phases passed: PCR 11
	Unread           []Measurement    `json:"unread,omitempty"`       // events of PCRs 1, 7, 8, 11 and 13 that are none of these
	Signals          []string         `json:"signals,omitempty"`      // debugger, DMA protection and the like
	Separators       []int            `json:"separators,omitempty"`   // PCRs that firmware closed
	ErrorSeparators  []int            `json:"error_separators,omitempty"`
	ExitBootServices bool             `json:"exit_boot_services"`
	Locality         int              `json:"locality,omitempty"` // of TPM2_Startup
	Accounted        []int            `json:"accounted"`          // PCRs that replay as quoted; of others nothing is known
	IMA              *IMAFacts        `json:"ima,omitempty"`      // nil if no list was given
}

// Application is an image that was started.
type Application struct {
	Event     int    `json:"event"`
	Digest    Digest `json:"digest"`              // Authenticode SHA-256
	Described string `json:"described,omitempty"` // file or kind of place; not covered by any digest
	Path      string `json:"path,omitempty"`      // whole device path; not covered either
}

// Loaded is a file or list that was measured when it was read.
type Loaded struct {
	Event     int    `json:"event"`
	Digest    Digest `json:"digest"`              // SHA-256 of the contents
	Described string `json:"described,omitempty"` // name; not covered by any digest
}

// CommandLine is a kernel command line that a boot loader measured.
type CommandLine struct {
	PCR       int    `json:"pcr"` // 12 (systemd-stub, systemd-boot) or 8 (GRUB)
	Event     int    `json:"event"`
	Digest    Digest `json:"digest"`
	Text      string `json:"text,omitempty"`      // covered by Digest; empty if the event does not hold it
	Described string `json:"described,omitempty"` // what the event holds instead
}

// Section is a part of a UKI.
type Section struct {
	Event  int    `json:"event"`
	Name   string `json:"name"`
	Digest Digest `json:"digest"` // SHA-256 of the contents
}

// FirmwareSet returns what the firmware of this boot measured, for an operator to
// approve under name.
func (f *Facts) FirmwareSet(name string) FirmwareSet {
	return FirmwareSet{Name: name, Measurements: slices.Clone(f.Firmware)}
}

// extractor reads events in order; pending is the UKI section whose contents are
// measured next.
type extractor struct {
	facts   Facts
	pending string
	secure  int // SecureBoot variables seen before the separator of PCR 7
	closed7 bool
	marks   marks
}

// extractFacts reads the events of those PCRs whose replay equals the quote.
func extractFacts(log *EventLog, holds func(pcr int) bool) Facts {
	x := &extractor{facts: Facts{SecureBoot: "unknown", Locality: log.Locality}, marks: newMarks()}
	for _, pcr := range selection {
		if holds(pcr) {
			x.facts.Accounted = append(x.facts.Accounted, pcr)
		}
	}
	for i := range log.Events {
		if e := &log.Events[i]; e.Extends() && holds(e.PCR) {
			x.read(e)
		}
	}
	if x.pending != "" {
		x.facts.Unread = append(x.facts.Unread, Measurement{PCR: 11, Event: -1, Text: "section " + x.pending + " without contents"})
	}
	if !x.facts.accounts(0, 2) {
		x.facts.Firmware = nil // half a firmware is none
	}
	if x.secure != 1 || !x.closed7 {
		x.facts.SecureBoot = "unknown"
	}
	if s := x.facts.Shim; s != nil && s.Validation == "on" && firstUnread(x.facts.Unread, 7) != nil {
		s.Validation = "unknown" // what can't be read may be that it is off
	}
	return x.facts
}

// accounts reports whether facts of all these PCRs are known.
func (f *Facts) accounts(pcrs ...int) bool {
	for _, pcr := range pcrs {
		if !slices.Contains(f.Accounted, pcr) {
			return false
		}
	}
	return true
}

func (x *extractor) read(e *LogEvent) {
	if e.PCR <= 7 && x.separator(e) && e.PCR != 0 && e.PCR != 2 {
		return
	}
	switch e.PCR {
	case 0, 2:
		x.firmware(e)
	case 1:
		x.bootVariable(e)
	case 4:
		x.application(e)
	case 5:
		if e.holds("Exit Boot Services Returned with Success") {
			x.facts.ExitBootServices = true
		}
		x.partitionTable(e)
	case 7:
		x.secureBoot(e)
	case 8:
		x.grub(e)
	case 9:
		x.loaded(e)
	case 11:
		x.section(e)
	case 12:
		x.commandLine(e)
	case 13:
		x.unread(e, ipl(e))
	case 14:
		x.mok(e)
	}
}

func (x *extractor) unread(e *LogEvent, text string) {
	x.facts.Unread = append(x.facts.Unread, e.measurement(text))
}

// covers reports whether the digest vouches for data.
func (e *LogEvent) covers(data []byte) bool { return sha256.Sum256(data) == e.Digest }

// holds reports whether the event is text, with its digest vouching for it.
func (e *LogEvent) holds(text string) bool { return string(e.Data) == text && e.covers(e.Data) }

func (e *LogEvent) measurement(text string) Measurement {
	return Measurement{PCR: e.PCR, Event: e.Index, Type: e.Type.String(), Digest: e.Digest, Text: clean(text)}
}

// separator reads EV_SEPARATOR (Platform Firmware Profile, section 10.4.1): four
// bytes of 0 or 0xff, or the value 1 for an error. It goes by the digest alone:
// nobody hides a separator, or an error, by altering what no digest covers.
func (x *extractor) separator(e *LogEvent) bool {
	switch e.Digest {
	case x.marks.zeros, x.marks.ones:
		if !slices.Contains(x.facts.Separators, e.PCR) {
			x.facts.Separators = append(x.facts.Separators, e.PCR)
		}
	case x.marks.failure:
		x.facts.ErrorSeparators = append(x.facts.ErrorSeparators, e.PCR)
	default:
		return false
	}
	x.closed7 = x.closed7 || e.PCR == 7
	return true
}

// marks are digests by which an event is known, whatever it claims to be.
type marks struct {
	zeros, ones, failure Digest // separators
	signals              map[Digest]string
}

func newMarks() marks {
	m := marks{
		zeros: sha256.Sum256([]byte{0, 0, 0, 0}), ones: sha256.Sum256([]byte{0xff, 0xff, 0xff, 0xff}),
		failure: sha256.Sum256([]byte{1, 0, 0, 0}), signals: make(map[Digest]string),
	}
	for _, signal := range []string{"UEFI Debug Mode", "DMA Protection Disabled"} {
		m.signals[sha256.Sum256([]byte(signal))] = signal
		m.signals[sha256.Sum256([]byte(signal+"\x00"))] = signal
	}
	return m
}

// application takes every event of PCR 4 for a started image, but for the marks
// that the firmware leaves: what somebody retyped is not overlooked.
func (x *extractor) application(e *LogEvent) {
	if e.Type == evEFIAction || e.Type == evOmitBootDevice {
		switch string(e.Data) {
		case "Calling EFI Application from Boot Option", "Returning from EFI Application from Boot Option",
			"BOOT ATTEMPTS OMITTED":
			if e.covers(e.Data) {
				return
			}
		}
	}
	x.facts.Applications = append(x.facts.Applications, application(e))
}

func application(e *LogEvent) Application {
	app := Application{Event: e.Index, Digest: e.Digest}
	if e.startsImage() {
		app.Described = clean(imagePath(e.Data))
		if path, ok := loadedFrom(e.Data); ok {
			app.Path = clean(devicePath(path))
		}
	}
	return app
}

// startsImage goes by the type, which no digest covers.
func (e *LogEvent) startsImage() bool {
	return e.Type == evBootApplication || e.Type == evBootDriver || e.Type == evRuntimeDriver
}
