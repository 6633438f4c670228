package lab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/gatewarden/gatewarden/e2e/lab/image"
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
	data    []byte // nil for a flush alone, and for a discard
	flush   bool   // all before it is on the disk
	forced  bool   // it is on the disk itself
	mark    int    // an acknowledgement of the machine instead of a write
	hasMark bool
}

// Crash is what a power cut left of one partition.
type Crash struct {
	Image string // path of the partition's image; it is removed afterwards
	Acked int    // the last mark that the machine wrote before the cut
}

// Lose says which writes a cut may take. The zero value takes what was not flushed, as
// disks do.
type Lose struct{ Flushed bool }

// Mark writes a number beyond all partitions, when all before it was acknowledged: a
// shell command for the machine, which has $n.
const Mark = `printf 'MARK %-507s' "$n" | dd of=/dev/vda bs=512 seek=` + markSector + ` conv=notrunc oflag=direct,sync status=none`

// markSector lies behind the last partition.
const markSector = "1443840"

// CrashStates cuts the power at n random writes to a partition of a machine that was
// logged and is off, and hands each state to check. What was written since the last
// flush is lost by half, and some of it torn.
func (vm *VM) CrashStates(partition string, n int, seed uint64, lose Lose, check func(Crash)) {
	vm.Helper()
	offset, size := image.Partition(partition)
	before := make([]byte, size)
	disk, err := os.Open(vm.machine.Disk)
	vm.must(err)
	defer disk.Close()
	_, err = disk.ReadAt(before, offset)
	vm.must(err)
	writes, err := readLog(vm.path("writes.log"), offset, size)
	vm.must(err)
	vm.Logf("the log has %d writes and flushes of %s", len(writes), partition)
	random := rand.New(rand.NewPCG(seed, 1))
	for range n {
		state := slices.Clone(before)
		acked := crash(state, writes[:random.IntN(len(writes)+1)], random, lose)
		path := filepath.Join("/dev/shm", filepath.Base(vm.dir)+".crash")
		vm.must(os.WriteFile(path, state, 0o600))
		check(Crash{path, acked})
		vm.must(os.Remove(path))
	}
}

// crash applies to state what a cut after writes leaves, and returns the last mark.
func crash(state []byte, writes []write, random *rand.Rand, lose Lose) (acked int) {
	flushed := 0
	for i, w := range writes {
		if w.flush && !lose.Flushed {
			flushed = i
		}
	}
	for i, w := range writes {
		if w.hasMark {
			acked = w.mark
		}
		data := w.data
		if i >= flushed && !w.forced {
			if random.IntN(2) == 0 {
				continue
			}
			if sectors := len(data) / sectorSize; sectors > 1 && random.IntN(10) < 3 {
				data = data[:(1+random.IntN(sectors-1))*sectorSize]
			}
		}
		copy(state[w.at:], data)
	}
	return acked
}

// readLog reads the entries that concern one partition, and marks.
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
	at := int64(sectorSize)
	for range super.Entries {
		var e struct{ Sector, Count, Flags, Length uint64 }
		if err := binary.Read(io.NewSectionReader(f, at, 32), binary.LittleEndian, &e); err != nil {
			return nil, err
		}
		at += sectorSize
		w := write{at: int64(e.Sector)*sectorSize - offset, flush: e.Flags&logFlush != 0, forced: e.Flags&logFUA != 0}
		if e.Flags&logDiscard == 0 && e.Count > 0 {
			w.data = make([]byte, e.Count*sectorSize)
			if _, err := f.ReadAt(w.data, at); err != nil {
				return nil, err
			}
			at += int64(len(w.data))
		}
		switch {
		case strconv.FormatUint(e.Sector, 10) == markSector && len(w.data) > 0:
			w.mark, err = strconv.Atoi(string(bytes.TrimSpace(w.data[5:min(len(w.data), sectorSize)])))
			if err != nil {
				return nil, err
			}
			list = append(list, write{mark: w.mark, hasMark: true, flush: w.flush})
		case w.flush && w.data == nil:
			list = append(list, write{flush: true})
		case w.at >= 0 && w.at+int64(len(w.data)) <= size && w.data != nil:
			list = append(list, w)
		}
	}
	return list, nil
}

// Repair checks an ext4 file system as a boot does. It returns false if that would
// have asked somebody.
func (c Crash) Repair() (bool, error) {
	err := exec.Command("/usr/sbin/e2fsck", "-fp", c.Image).Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode() <= 2, nil
	}
	return err == nil, err
}

// Extract copies a folder of the file system to the host.
func (c Crash) Extract(folder, to string) error {
	return host("/usr/sbin/debugfs", "-R", "rdump "+folder+" "+to, c.Image)
}
