package attest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

// Describe says what an event is about, for people, and whether a digest of its own
// covers what was said. Where it does not, the text is the log's word alone.
func (e *LogEvent) Describe() (text string, covered bool) {
	covered = e.Extends() && e.digestCovers(e.Data)
	switch e.Type {
	case evNoAction:
		return noActionText(e.Data), false
	case evSeparator:
		return separatorText(e.Data), covered
	case evVariableDriver, evVariableBoot, evVariableBoot2, evVariableAuthority:
		return e.describeVariable(covered)
	case evBootApplication, evBootDriver, evRuntimeDriver:
		if path, ok := loadedFrom(e.Data); ok {
			return clean(devicePath(path)), false
		}
		return unreadable, false
	case evGPT, evGPT2:
		var table PartitionTable
		if err := table.read(e.Data); err != nil {
			return clean("malformed partition table: " + err.Error()), covered
		}
		return fmt.Sprintf("disk %s, %d partitions", table.Disk, len(table.Partitions)), covered
	case evEventTag:
		if len(e.Data) > 8 {
			return clean(fmt.Sprintf("tag 0x%x %s", binary.LittleEndian.Uint32(e.Data), plain(e.Data[8:]))), covered
		}
	case evIPL:
		return e.describeIPL(covered)
	case evSCRTMVersion:
		return versionText(e.Data), covered
	case evFirmwareBlob, evFirmwareBlob2:
		return clean(strings.TrimPrefix(firmwareText(e), "described as ")), false
	}
	return clean(plain(e.Data)), covered
}

// digestCovers is covers in the strongest bank that the event has.
func (e *LogEvent) digestCovers(data []byte) bool {
	for _, alg := range []Algorithm{AlgSHA256, AlgSHA384, AlgSHA512, AlgSHA1} {
		if want := e.bank(alg); want != nil {
			h := alg.hash()
			h.Write(data)
			return bytes.Equal(h.Sum(nil), want)
		}
	}
	return false
}

func (e *LogEvent) describeVariable(covered bool) (string, bool) {
	v, contents, err := parseVariable(e, e.Data)
	if err != nil {
		return clean("malformed variable: " + err.Error()), covered
	}
	text := fmt.Sprintf("%s, %d bytes", v.Name, len(contents))
	switch {
	case v.Name == "SecureBoot" && len(contents) == 1:
		text = fmt.Sprintf("SecureBoot = %d", contents[0])
	case isBootOption(v.Name):
		if option, ok := bootOption(contents); ok {
			text = v.Name + ": " + option
		}
	case e.Type == evVariableAuthority:
		if v.readAuthority(contents); len(v.Subjects) == 1 && v.Subjects[0] != "" {
			text = v.Name + ": " + v.Subjects[0]
		}
	}
	return text, covered
}

func (e *LogEvent) describeIPL(covered bool) (string, bool) {
	text := ipl(e)
	if e.PCR == 8 {
		data := bytes.TrimRight(e.Data, "\x00")
		for prefix := range grubPrefixes() {
			if rest, ok := bytes.CutPrefix(data, []byte(prefix)); ok {
				covered = covered || e.digestCovers(rest) || e.digestCovers(append(bytes.Clone(rest), 0))
			}
		}
	}
	if e.PCR == 11 || e.PCR == 12 {
		covered = covered || e.digestCovers(utf16Bytes(text)) || e.digestCovers(append([]byte(text), 0))
		if e.PCR == 11 && !covered {
			text = "contents of " + text
		}
	}
	return clean(text), covered
}

func noActionText(data []byte) string {
	name, rest, _ := bytes.Cut(data, []byte{0})
	if string(name) == "StartupLocality" && len(rest) == 1 {
		return fmt.Sprintf("StartupLocality %d", rest[0])
	}
	return clean(string(bytes.ToValidUTF8(name, []byte("?"))))
}

func separatorText(data []byte) string {
	switch {
	case bytes.Equal(data, []byte{0, 0, 0, 0}), bytes.Equal(data, []byte{0xff, 0xff, 0xff, 0xff}):
		return "separator"
	case bytes.Equal(data, []byte{1, 0, 0, 0}):
		return "error"
	}
	return clean(plain(data))
}

// plain is data as text where it is text, else in hex.
func plain(data []byte) string {
	ascii := strings.TrimRight(string(data), "\x00")
	if isPrintable(ascii) {
		return ascii
	}
	if text, ok := utf16Text(data); ok && len(data) >= 4 && isPrintable(text) {
		return text
	}
	if len(data) > 16 {
		return fmt.Sprintf("%x… (%d bytes)", data[:16], len(data))
	}
	return fmt.Sprintf("%x", data)
}
