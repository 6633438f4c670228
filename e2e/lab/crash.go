package lab

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/gatewarden/gatewarden/e2e/lab/image"
)

// Crash is what a power cut left of one partition.
type Crash struct {
	Image string // path of the partition's image; it is removed afterwards
	Acked int    // the last mark that the machine wrote before the cut
}

// Lose says which writes a cut may take. The zero value takes what was not flushed, as
// disks do. Flushed takes others too, as a disk does that lies about its cache: some of
// all, or, in every second state, all after a moment.
type Lose struct{ Flushed bool }

// Mark writes a number beyond all partitions, when all before it was acknowledged: a
// shell command for the machine, which has $n.
const Mark = `printf 'MARK %-507s' "$n" | dd of=/dev/vda bs=512 seek=` + markSector + ` conv=notrunc oflag=direct,sync status=none`

// markSector lies behind the last partition.
const markSector = "1443840"

// CrashStates cuts the power n times, at moments spread over all writes to a partition
// of a machine that was logged and is off, and hands each state to check. What was
// written since the last flush is lost by half, and some of it torn.
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
	for i := range n {
		state := slices.Clone(before)
		cut := (i*(len(writes)+1) + random.IntN(len(writes)+1)) / n
		acked := crash(state, writes[:cut], random, lose)
		path := filepath.Join("/dev/shm", filepath.Base(vm.dir)+".crash")
		vm.must(os.WriteFile(path, state, 0o600))
		check(Crash{path, acked})
		vm.must(os.Remove(path))
	}
}

// crash applies to state what a cut after writes leaves, and returns the last mark.
func crash(state []byte, writes []write, random *rand.Rand, lose Lose) (acked int) {
	flushed, end := 0, len(writes)
	if lose.Flushed && random.IntN(2) == 0 {
		end = random.IntN(len(writes) + 1)
		flushed = end
	}
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
			if i >= end || random.IntN(2) == 0 {
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

// Repair checks an ext4 file system as a boot does. It returns false if that would
// have asked somebody; then all was answered with yes.
func (c Crash) Repair() (clean bool, said string, err error) {
	out, err := exec.Command("/usr/sbin/e2fsck", "-fp", c.Image).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return true, "", err
	}
	if exit.ExitCode() <= 2 {
		return true, "", nil
	}
	_ = exec.Command("/usr/sbin/e2fsck", "-fy", c.Image).Run() // what it can't repair is lost: the caller looks
	return false, string(out), nil
}

// CheckFAT checks a FAT file system as a boot does, and returns what the check said.
func (c Crash) CheckFAT() (string, error) {
	out, err := exec.Command("/usr/sbin/fsck.vfat", "-a", c.Image).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		err = nil // it repaired something
	}
	return string(out), err
}

// ExtractFAT copies what can be read of a folder of a FAT file system to the host. It
// returns what it could not read.
func (c Crash) ExtractFAT(folder, to string) string {
	cmd := exec.Command("mcopy", "-s", "-n", "-i", c.Image, "::"+folder, to)
	cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return string(out) + err.Error()
	}
	return ""
}

// Extract copies a folder of the file system to the host.
func (c Crash) Extract(folder, to string) error {
	return host("/usr/sbin/debugfs", "-R", "rdump "+folder+" "+to, c.Image)
}
