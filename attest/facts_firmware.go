package attest

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

func (x *extractor) firmware(e *LogEvent) {
	x.facts.Firmware = append(x.facts.Firmware, e.measurement(firmwareText(e)))
	if e.Type == evSCRTMVersion && e.covers(e.Data) {
		if text, ok := utf16Text(e.Data); ok {
			x.facts.FirmwareVersion = clean(text)
		} else if len(e.Data) == 16 {
			x.facts.FirmwareVersion = guidText(e.Data)
		}
	}
}

// firmwareText is what a firmware event is about, said as far as it is vouched for.
func firmwareText(e *LogEvent) string {
	switch e.Type {
	case evSeparator:
		return "separator"
	case evSCRTMVersion:
		if text, ok := utf16Text(e.Data); ok && text != "" && e.covers(e.Data) {
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

// imagePath is the file or place that an EFI_IMAGE_LOAD_EVENT names
// (Platform Firmware Profile, section 10.2.3).
func imagePath(data []byte) string {
	c := &cursor{data: data, order: binary.LittleEndian}
	c.take(24, "location, length, link time")
	path := c.take(c.u64("length of device path"), "device path")
	if c.end("image load event") != nil {
		return "an unreadable place"
	}
	return devicePathText(path)
}

// devicePathText names the file of an EFI device path (UEFI 2.10, section 10.3),
// or what kind of place it is where there is no file.
func devicePathText(path []byte) string {
	c := &cursor{data: path, order: binary.LittleEndian}
	text := "memory"
	for c.left() > 0 {
		kind, sub, size := c.u8("type"), c.u8("subtype"), c.u16("length")
		if size < 4 {
			return "an unreadable place"
		}
		node := c.take(uint64(size)-4, "node")
		if c.err != nil {
			return "an unreadable place"
		}
		switch {
		case kind == 0x7f:
			return text
		case kind == 4 && sub == 4: // media, file path
			if name, ok := utf16Text(node); ok {
				text = name
			}
		case kind == 4 && sub == 6: // media, firmware file
			text = "firmware file " + guidText(node)
		case kind == 1 && sub == 1: // hardware, PCI
			text = "PCI device"
		}
	}
	return text
}
