package health

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
)

const maxUnitNames = 5 // that a summary lists

// units asks systemd over D-Bus which units failed. It connects anew each time:
// an idle connection would cost memory and wakeups between the runs.
func units() Check {
	return Check{Name: "units", Every: 5 * time.Minute, Run: func(ctx context.Context) (string, string) {
		conn, err := dbus.NewSystemConnectionContext(ctx)
		if err != nil {
			return Unknown, fmt.Sprintf("can't ask systemd for failed units: %v", err)
		}
		defer conn.Close()
		failed, err := conn.ListUnitsFilteredContext(ctx, []string{"failed"})
		if err != nil {
			return Unknown, fmt.Sprintf("can't ask systemd for failed units: %v", err)
		}
		names := make([]string, 0, len(failed))
		for _, unit := range failed {
			names = append(names, unit.Name)
		}
		return judgeUnits(names)
	}}
}

// judgeUnits warns of every failed unit; which of them matter is not ours to say.
func judgeUnits(failed []string) (status, summary string) {
	slices.Sort(failed) // an order of its own, so that the posture is stable
	switch n := len(failed); {
	case n == 0:
		return OK, "no unit has failed"
	case n == 1:
		return Warning, "1 unit has failed: " + failed[0]
	case n <= maxUnitNames:
		return Warning, fmt.Sprintf("%d units have failed: %s", n, strings.Join(failed, ", "))
	default:
		return Warning, fmt.Sprintf("%d units have failed: %s and %d more", n, strings.Join(failed[:maxUnitNames], ", "), n-maxUnitNames)
	}
}
