package boot

import (
	"bytes"
	"encoding/binary"
)

// Section is one section of a PE file.
type Section struct {
	Name string // up to 8 bytes
	Data []byte
}

const (
	fileAlignment = 512
	headersSize   = 1024 // room for 14 sections
	optionalSize  = 240  // PE32+ with 16 data directories
)

// PE makes a PE32+ file (Microsoft PE and COFF Specification) of these sections. It
// has the shape of a boot application and can't run.
func PE(sections ...Section) []byte {
	var b bytes.Buffer
	put := func(v ...any) {
		for _, x := range v {
			_ = binary.Write(&b, binary.LittleEndian, x) // a buffer takes everything
		}
	}
	b.WriteString("MZ")
	b.Write(make([]byte, 58))
	put(uint32(64))
	b.WriteString("PE\x00\x00")
	put(uint16(0x8664), uint16(len(sections)), [12]byte{}, uint16(optionalSize), uint16(0x22))
	put(uint16(0x20b), [22]byte{}, uint64(0), uint32(4096), uint32(fileAlignment), [16]byte{}) // to SizeOfImage
	put(uint32(0), uint32(headersSize), uint32(0), uint16(10), uint16(0), [36]byte{}, uint32(16))
	b.Write(make([]byte, 64+24+optionalSize-b.Len()))
	at, address := headersSize, 4096
	for _, s := range sections {
		var name [8]byte
		copy(name[:], s.Name)
		raw := (len(s.Data) + fileAlignment - 1) / fileAlignment * fileAlignment
		put(name, uint32(len(s.Data)), uint32(address), uint32(raw), uint32(at), [12]byte{}, uint32(0x40000040))
		at += raw
		address += (len(s.Data) + 4095) / 4096 * 4096
	}
	for i, s := range append([]Section{{}}, sections...) {
		if i > 0 {
			b.Write(s.Data)
		}
		b.Write(make([]byte, (fileAlignment-b.Len()%fileAlignment)%fileAlignment))
		if i == 0 {
			b.Write(make([]byte, headersSize-b.Len()))
		}
	}
	return b.Bytes()
}

// UKI makes a file of the shape of a unified kernel image: a kernel, which is a PE
// file itself, the release's name and a command line.
func UKI(kernel, release, commandLine string) []byte {
	return PE(
		Section{".text", []byte("stub")},
		Section{".osrel", []byte(release)},
		Section{".cmdline", []byte(commandLine)},
		Section{".uname", []byte("6.1.0-gw")},
		Section{".linux", PE(Section{".text", []byte(kernel)})},
	)
}
