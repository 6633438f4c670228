package attest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

func (x *extractor) firmware(e *LogEvent) {
	x.facts.Firmware = append(x.facts.Firmware, e.measurement(firmwareText(e)))
	if e.Type == evSCRTMVersion && e.covers(e.Data) {
		x.facts.FirmwareVersion = versionText(e.Data)
	}
	if e.PCR == 2 && e.startsImage() {
		x.facts.OptionROMs = append(x.facts.OptionROMs, application(e))
	}
}

// versionText reads what firmware says of itself: a GUID, UTF-16, or, on some
// machines, ASCII.
func versionText(data []byte) string {
	if text, ok := utf16Text(data); ok && (len(data) != 16 || isPrintable(text)) {
		return clean(text)
	}
	if len(data) == 16 {
		return guidText(data)
	}
	return clean(strings.ToValidUTF8(string(bytes.TrimRight(data, "\x00")), "?"))
}

// firmwareText is what a firmware event is about, said as far as it is vouched for.
func firmwareText(e *LogEvent) string {
	switch e.Type {
	case evSeparator:
		return "separator"
	case evSCRTMVersion:
		if text := versionText(e.Data); text != "" && e.covers(e.Data) {
			return "firmware version " + text
		}
		return "firmware version"
	case evFirmwareBlob:
		if len(e.Data) == 16 {
			base, size := binary.LittleEndian.Uint64(e.Data), binary.LittleEndian.Uint64(e.Data[8:])
			return fmt.Sprintf("described as firmware at 0x%x, %d bytes", base, size)
		}
	case evFirmwareBlob2:
		if len(e.Data) > 1 && len(e.Data) == 17+int(e.Data[0]) {
			return "described as " + string(e.Data[1:1+int(e.Data[0])])
		}
	case evBootDriver, evRuntimeDriver, evBootApplication:
		return "described as " + imagePath(e.Data)
	case evPostCode, evEFIAction, evNonhostInfo:
		return "described as " + string(bytes.TrimRight(e.Data, "\x00"))
	}
	return ""
}
