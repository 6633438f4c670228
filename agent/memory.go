package agent

import (
	"context"
	"runtime"
	"runtime/debug"
	"time"
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
		}
	}
}
