package lab

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strconv"
)

// The log of QEMU's blklogwrites has the format of the kernel's dm-log-writes.
const (
	logMagic   = 0x6a736677736872
	logFlush   = 1
	logFUA     = 2
	logDiscard = 4
	sectorSize = 512
)

// write is one entry of the log, in bytes of the partition.
type write struct {
	at      int64
	data    []byte // nil for a flush alone
	flush   bool   // all before it is on the disk
	forced  bool   // it is on the disk itself
	mark    int    // an acknowledgement of the machine instead of a write
	hasMark bool
}

// readLog reads the entries that concern one partition, and marks. Flushes with
// nothing to flush are left out: a cut after one is no other cut.
func readLog(path string, offset, size int64) ([]write, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var super struct {
		Magic, Version, Entries uint64
		Sector                  uint32
	}
	if err := binary.Read(io.NewSectionReader(f, 0, 64), binary.LittleEndian, &super); err != nil {
		return nil, err
	}
	if super.Magic != logMagic || super.Sector != sectorSize {
		return nil, fmt.Errorf("%s is no log of writes: %+v", path, super)
	}
	var list []write
	at, clean := int64(sectorSize), true
	for range super.Entries {
		var e struct{ Sector, Count, Flags, Length uint64 }
		if err := binary.Read(io.NewSectionReader(f, at, 32), binary.LittleEndian, &e); err != nil {
			return nil, err
		}
		at += sectorSize
		length := int64(e.Count * sectorSize)
		if e.Flags&logDiscard != 0 {
			length = 0 // nothing is logged of what it discards
		}
		w, ours, err := entry(io.NewSectionReader(f, at, length), e.Sector, length, offset, size)
		if err != nil {
			return nil, err
		}
		at += length
		w.flush, w.forced = e.Flags&logFlush != 0, e.Flags&logFUA != 0
		switch {
		case w.hasMark:
			list = append(list, w)
		case ours:
			list, clean = append(list, w), false
		case w.flush && !clean:
			list, clean = append(list, write{flush: true}), true
		}
	}
	return list, nil
}

// entry reads the data of an entry of the log, and says whether it is a mark or of the
// partition.
func entry(data io.Reader, sector uint64, length, offset, size int64) (w write, ours bool, err error) {
	w.at = int64(sector)*sectorSize - offset
	isMark := strconv.FormatUint(sector, 10) == markSector
	if length == 0 || !isMark && (w.at < 0 || w.at+length > size) {
		return w, false, nil
	}
	content := make([]byte, length)
	if _, err := io.ReadFull(data, content); err != nil {
		return w, false, err
	}
	if !isMark {
		w.data = content
		return w, true, nil
	}
	w = write{hasMark: true}
	w.mark, err = strconv.Atoi(string(bytes.TrimSpace(content[len("MARK "):min(length, sectorSize)])))
	return w, true, err
}
