package health

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// timeSync asks the kernel whether a time daemon keeps its clock.
func timeSync() Check {
	return Check{Name: "timesync", Every: 5 * time.Minute, Run: func(context.Context) (string, string) {
		var t unix.Timex
		state, err := unix.Adjtimex(&t)
		if err != nil {
			return Unknown, fmt.Sprintf("can't ask the kernel about its clock: %v", err)
		}
		return judgeClock(state, t.Status)
	}}
}

// judgeClock reads what adjtimex(2) returns: TIME_ERROR or STA_UNSYNC say that
// nobody has set the clock, or not for long.
func judgeClock(state int, status int32) (string, string) {
	if state == unix.TIME_ERROR || status&unix.STA_UNSYNC != 0 {
		return Warning, "the clock is not synchronised; check that a time service runs and reaches its servers"
	}
	return OK, "the clock is synchronised"
}
