package attest

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Kinds of nodes of an EFI device path, type and subtype (UEFI 2.10, section 10.3).
const (
	nodePCI         = 0x0101
	nodeMemory      = 0x0103
	nodeACPI        = 0x0201
	nodeSCSI        = 0x0302
	nodeUSB         = 0x0305
	nodeMAC         = 0x030b
	nodeSATA        = 0x0312
	nodeNVMe        = 0x0317
	nodeURI         = 0x0318
	nodeDisk        = 0x0401
	nodeMediaVendor = 0x0403
	nodeFile        = 0x0404
	nodeFirmware    = 0x0406
	nodeVolume      = 0x0407
	nodeOffset      = 0x0408
	nodeEnd         = 0x7fff
)

const unreadable = "an unreadable place"

// loadedFrom returns the device path of an EFI_IMAGE_LOAD_EVENT (Platform Firmware
// Profile, section 10.2.3). Old versions of shim leave zeros behind it.
func loadedFrom(data []byte) ([]byte, bool) {
	c := &cursor{data: data, order: binary.LittleEndian}
	c.take(24, "location, length, link time")
	path := c.take(c.u64("length of device path"), "device path")
	return path, c.err == nil
}

// imagePath is the file or place that an EFI_IMAGE_LOAD_EVENT names.
func imagePath(data []byte) string {
	path, ok := loadedFrom(data)
	if !ok {
		return unreadable
	}
	return devicePathText(path)
}

// walkPath calls each for the nodes of a device path, and reports whether it is one.
func walkPath(path []byte, each func(kind uint16, node []byte)) bool {
	c := &cursor{data: path, order: binary.BigEndian}
	for c.left() > 0 {
		kind := c.u16("type and subtype")
		c.order = binary.LittleEndian
		size := c.u16("length")
		c.order = binary.BigEndian
		if c.err != nil || size < 4 {
			return false
		}
		node := c.take(uint64(size)-4, "node")
		if c.err != nil {
			return false
		}
		if kind == nodeEnd {
			return true
		}
		each(kind, node)
	}
	return true
}

// devicePathText names the file of an EFI device path, or what kind of place it is
// where there is no file.
func devicePathText(path []byte) string {
	text := "memory"
	ok := walkPath(path, func(kind uint16, node []byte) {
		switch kind {
		case nodeFile:
			if name, ok := utf16Text(node); ok {
				text = name
			}
		case nodeFirmware:
			text = "firmware file " + guidText(node)
		case nodePCI:
			text = "PCI device"
		}
	})
	if !ok {
		return unreadable
	}
	return text
}

// devicePath writes a whole device path as UEFI does (section 10.6), nodes that say
// little to people by their numbers.
func devicePath(path []byte) string {
	var nodes []string
	if !walkPath(path, func(kind uint16, node []byte) { nodes = append(nodes, nodeText(kind, node)) }) {
		return unreadable
	}
	return strings.Join(nodes, "/")
}

func nodeText(kind uint16, node []byte) string {
	le := binary.LittleEndian
	switch {
	case kind == nodePCI && len(node) == 2:
		return fmt.Sprintf("Pci(0x%x,0x%x)", node[1], node[0])
	case kind == nodeMemory && len(node) == 20:
		return fmt.Sprintf("MemoryMapped(0x%x,0x%x)", le.Uint64(node[4:]), le.Uint64(node[12:]))
	case kind == nodeACPI && len(node) == 8:
		if le.Uint32(node) == 0x0a0341d0 { // PNP0A03
			return fmt.Sprintf("PciRoot(0x%x)", le.Uint32(node[4:]))
		}
		return fmt.Sprintf("Acpi(0x%x,0x%x)", le.Uint32(node), le.Uint32(node[4:]))
	case kind == nodeSCSI && len(node) == 4:
		return fmt.Sprintf("Scsi(0x%x,0x%x)", le.Uint16(node), le.Uint16(node[2:]))
	case kind == nodeUSB && len(node) == 2:
		return fmt.Sprintf("USB(0x%x,0x%x)", node[0], node[1])
	case kind == nodeMAC && len(node) == 33:
		return fmt.Sprintf("MAC(%x,0x%x)", node[:6], node[32])
	case kind == nodeSATA && len(node) == 6:
		return fmt.Sprintf("Sata(0x%x,0x%x,0x%x)", le.Uint16(node), le.Uint16(node[2:]), le.Uint16(node[4:]))
	case kind == nodeNVMe && len(node) == 12:
		return fmt.Sprintf("NVMe(0x%x,%x)", le.Uint32(node), node[4:])
	case kind == nodeURI:
		return "Uri(" + strings.ToValidUTF8(string(node), "?") + ")"
	case kind == nodeDisk && len(node) == 38 && node[37] == 2:
		return fmt.Sprintf("HD(%d,GPT,%s)", le.Uint32(node), guidText(node[20:36]))
	case kind == nodeMediaVendor && len(node) >= 16:
		return "VenMedia(" + guidText(node[:16]) + ")"
	case kind == nodeFile:
		if name, ok := utf16Text(node); ok {
			return name
		}
	case kind == nodeFirmware && len(node) == 16:
		return "FvFile(" + guidText(node) + ")"
	case kind == nodeOffset && len(node) == 20:
		return fmt.Sprintf("Offset(0x%x,0x%x)", le.Uint64(node[4:]), le.Uint64(node[12:]))
	case kind == nodeVolume && len(node) == 16:
		return "Fv(" + guidText(node) + ")"
	}
	return fmt.Sprintf("Path(%d,%d,%x)", kind>>8, kind&0xff, node[:min(len(node), 16)])
}
