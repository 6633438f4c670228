package agent

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// BeFrugal sets up the process for an agent, which is idle most of the time and
// holds less than a megabyte: the heap is collected after it grew by a quarter,
// and one processor's caches are enough. It is for the program that runs nothing
// else.
func BeFrugal() {
	debug.SetGCPercent(25)
	runtime.GOMAXPROCS(1)
}

// afterBurst is how long after a verdict the agent is idle: report and
// acknowledgements have passed.
const afterBurst = 10 * time.Second

// giveBack returns memory to the system when a burst of work is over: a verdict
// ends a start, an attestation and a renewal alike.
func (a *Agent) giveBack(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.rest:
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(afterBurst):
			debug.FreeOSMemory()
			if err := unmapCode(); err != nil {
				a.log.Debug("give back code pages", "error", err)
			}
		}
	}
}

// unmapCode forgets the pages of the program's code and constants, which the kernel
// maps by the megabyte although most of them are for the start only. What is needed
// comes back from the page cache. No other mapping is touched: nothing ever writes to
// these, so that there is nothing to lose.
func unmapCode() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(maps)) {
		var from, to uintptr
		var rights string
		// proc(5): address range, rights, offset, device, inode, path.
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &rights); err != nil {
			return fmt.Errorf("read memory map: %w", err)
		}
		if rights != "r-xp" && rights != "r--p" || !strings.HasSuffix(strings.TrimSpace(line), " "+exe) {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("unmap code: %w", errno)
		}
	}
	return nil
}
