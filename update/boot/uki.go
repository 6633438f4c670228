package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Limits of what is read of a UKI.
const (
	maxSections = 96       // count, as the PE format has it
	maxText     = 64 << 10 // bytes, of .osrel and of .cmdline
)

// readUKI fills in what systemd-boot reads of a UKI. Without an os-release that
// names something the file is no boot entry: SortKey and Version stay empty, and
// entry is false.
func readUKI(r io.ReaderAt, e *Entry) (entry bool, err error) {
	release, err := section(r, ".osrel")
	if err != nil {
		return false, err
	}
	var id, image, name, version [4]string // by preference, the best one last
	for line := range strings.Lines(string(release)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		value = strings.Trim(value, `"`)
		switch key {
		case "ID":
			id[0], name[0] = value, value
		case "IMAGE_ID":
			image[0], name[2] = value, value
		case "NAME":
			name[1] = value
		case "PRETTY_NAME":
			name[3] = value
		case "BUILD_ID":
			version[0] = value
		case "VERSION_ID":
			version[1] = value
		case "VERSION":
			version[2] = value
		case "IMAGE_VERSION":
			version[3] = value
		}
	}
	e.SortKey, e.Version = last(id[0], image[0]), last(version[:]...)
	line, err := section(r, ".cmdline")
	e.CommandLine = strings.TrimRight(string(line), "\n\x00")
	return last(name[:]...) != "", err
}

// last returns the last string that is not empty.
func last(s ...string) string {
	best := ""
	for _, v := range s {
		if v != "" {
			best = v
		}
	}
	return best
}

// section returns the contents of a section of a PE file, nil if it has none.
func section(r io.ReaderAt, name string) ([]byte, error) {
	var dos [64]byte
	if _, err := r.ReadAt(dos[:], 0); err != nil || dos[0] != 'M' || dos[1] != 'Z' {
		return nil, errors.Join(errors.New("it is no PE file"), err)
	}
	at := int64(binary.LittleEndian.Uint32(dos[60:]))
	var head [24]byte
	if _, err := r.ReadAt(head[:], at); err != nil || string(head[:4]) != "PE\x00\x00" {
		return nil, errors.Join(errors.New("it has no PE header"), err)
	}
	count := int(binary.LittleEndian.Uint16(head[6:]))
	if count > maxSections {
		return nil, fmt.Errorf("it has %d sections, at most %d are allowed", count, maxSections)
	}
	table := make([]byte, 40*count)
	if _, err := r.ReadAt(table, at+24+int64(binary.LittleEndian.Uint16(head[20:]))); err != nil {
		return nil, fmt.Errorf("read section table: %w", err)
	}
	for ; len(table) > 0; table = table[40:] {
		if string(bytes.TrimRight(table[:8], "\x00")) != name {
			continue
		}
		size, offset := binary.LittleEndian.Uint32(table[8:]), binary.LittleEndian.Uint32(table[20:])
		if size > maxText {
			return nil, fmt.Errorf("section %s has %d bytes, at most %d are allowed", name, size, maxText)
		}
		data := make([]byte, size)
		if _, err := r.ReadAt(data, int64(offset)); err != nil {
			return nil, fmt.Errorf("read section %s: %w", name, err)
		}
		return data, nil
	}
	return nil, nil
}
