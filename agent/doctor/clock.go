package doctor

import (
	"context"
	"os"

	"github.com/gatewarden/gatewarden/agent/clock"
	"github.com/gatewarden/gatewarden/internal/fsx"
)

// clockCheck is whether the machine knows what time it is.
func clockCheck() *Check {
	return &Check{
		Name: "clock", About: "the clock: kept over a power cut, set, and not before what is known", For: "report",
		Cases: `
no-rtc advice enrol report
No clock runs while the power is off: each boot begins at a wrong time. That delays the connection until a time source answers; nothing is lost.
Fit a battery-backed clock and its driver, or make sure that NTP answers at boot (systemd-timesyncd keeps the last time on disk).

behind advice enrol report
The clock shows a time that is past for certain, so none is believed: the floor counts as the time until a time source answers.
Set the clock ("timedatectl set-time", or start NTP), and look at the battery of the hardware clock.

not-set advice report
No time source has set the clock since boot. Commands need the device's challenge until one does.
Start a time service (systemd-timesyncd, chrony) and let it reach its servers.
`,
		Look: func(_ context.Context, m *Machine, n *notes) {
			if entries, err := os.ReadDir(m.at("/sys/class/rtc")); absent(err) || err == nil && len(entries) == 0 {
				n.is("no-rtc", "there is nothing in /sys/class/rtc")
			} else if err != nil {
				n.unseen("look for a hardware clock", err)
			}
			now, floor := m.Now(), m.Build
			// It only reads; no file is no error.
			if known, err := clock.New(clock.Config{FS: &fsx.FS{}, Dir: m.at(m.Settings.State), Build: m.Build, Now: m.Now, Synced: m.Kernel.Synced}); err != nil {
				n.unseen("read the time floor", err)
			} else {
				floor = known.Floor()
			}
			switch {
			case now.Before(floor):
				n.is("behind", "the clock says %s, it is %s or later", day(now), day(floor))
			case !m.Kernel.Synced():
				n.is("not-set", "no time source has set the clock")
			}
			n.ok("%s, set by a time source", day(now))
		},
	}
}
