package attest

import (
	"encoding/binary"
	"fmt"
)

// PartitionTable is the GPT of the disk that was booted from: PCR 5.
type PartitionTable struct {
	Event      int         `json:"event"`
	Disk       string      `json:"disk"` // GUID
	Partitions []Partition `json:"partitions,omitempty"`
	Doubt      string      `json:"doubt,omitempty"` // why this says nothing
}

// Partition is one entry of a PartitionTable.
type Partition struct {
	Type  string `json:"type"` // GUID
	GUID  string `json:"guid"`
	Name  string `json:"name,omitempty"`
	First uint64 `json:"first"` // logical block
	Last  uint64 `json:"last"`
}

// partitionTable reads EV_EFI_GPT_EVENT and EV_EFI_GPT_EVENT2.
func (x *extractor) partitionTable(e *LogEvent) {
	if e.Type != evGPT && e.Type != evGPT2 {
		return
	}
	table := PartitionTable{Event: e.Index}
	if !e.covers(e.Data) {
		table.Doubt = "no digest covers it"
	} else if err := table.read(e.Data); err != nil {
		table = PartitionTable{Event: e.Index, Doubt: clean("it is malformed " + err.Error())}
	}
	x.facts.Disks = append(x.facts.Disks, table)
}

// read reads UEFI_GPT_DATA (Platform Firmware Profile 1.06, section 10.2.8): a
// header and the used entries of a GPT (UEFI 2.10, section 5.3).
func (t *PartitionTable) read(data []byte) error {
	const entrySize = 128
	c := &cursor{data: data, order: binary.LittleEndian}
	if magic := string(c.take(8, "signature")); c.err == nil && magic != "EFI PART" {
		c.fail(0, "signature %q", magic)
	}
	c.take(48, "header")
	t.Disk = guidText(c.take(16, "disk GUID"))
	c.take(12, "place and number of entries")
	if size := c.u32("size of an entry"); c.err == nil && size != entrySize {
		c.fail(84, "entries of %d bytes", size)
	}
	c.take(4, "checksum of entries")
	count := c.u64("number of used entries")
	if c.err == nil && count != uint64(c.left()/entrySize) {
		c.fail(92, "%d entries in %d bytes", count, c.left())
	}
	for c.err == nil && c.left() > 0 {
		p := Partition{Type: guidText(c.take(16, "type")), GUID: guidText(c.take(16, "GUID"))}
		p.First, p.Last = c.u64("first block"), c.u64("last block")
		c.take(8, "attributes")
		p.Name = partitionName(c.take(72, "name"))
		t.Partitions = append(t.Partitions, p)
	}
	return c.err
}

// partitionName is UTF-16, filled up with zeros.
func partitionName(field []byte) string {
	end := 0
	for end+2 <= len(field) && (field[end] != 0 || field[end+1] != 0) {
		end += 2
	}
	name, ok := utf16Text(field[:end])
	if !ok {
		return "(not UTF-16)"
	}
	return clean(name)
}

// bootOption reads EFI_LOAD_OPTION (UEFI 2.10, section 3.1.3): what the firmware
// offers to boot, and where that is.
func bootOption(data []byte) (string, bool) {
	c := &cursor{data: data, order: binary.LittleEndian}
	c.take(4, "attributes")
	size := uint64(c.u16("length of device path"))
	end := c.pos
	for end+2 <= len(data) && (data[end] != 0 || data[end+1] != 0) {
		end += 2
	}
	name, ok := utf16Text(c.take(uint64(end-c.pos), "description"))
	c.take(2, "end of description")
	path := c.take(size, "device path")
	if c.err != nil || !ok {
		return "", false
	}
	return fmt.Sprintf("%s, %s", clean(name), clean(devicePath(path))), true
}
