package health

import (
	"bufio"
	"os/exec"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"go.uber.org/goleak"
)

// manager answers as systemd's does, on a real bus.
type manager struct{ rows []unitRow }

// unitRow is ListUnitsFiltered's (ssssssouso), org.freedesktop.systemd1(5).
type unitRow struct {
	Name, Description, Load, Active, Sub, Following string
	Path                                            dbus.ObjectPath
	JobID                                           uint32
	JobType                                         string
	JobPath                                         dbus.ObjectPath
}

func (m manager) ListUnitsFiltered(states []string) ([]unitRow, *dbus.Error) {
	if len(states) != 1 || states[0] != "failed" {
		return nil, nil
	}
	return m.rows, nil
}

func TestFailedUnitsOverARealBus(t *testing.T) {
	bus, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip("dbus-daemon is not installed (Debian package dbus)")
	}
	daemon := exec.Command(bus, "--session", "--nofork", "--print-address=1", "--nopidfile")
	out, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = daemon.Process.Kill(); _ = daemon.Wait() })
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	address = strings.TrimSpace(address)

	service, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	m := manager{rows: []unitRow{{Name: "broken.service", Load: "loaded", Active: "failed", Sub: "failed", Path: "/a", JobPath: "/"}}}
	if err := service.Export(m, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"); err != nil {
		t.Fatal(err)
	}
	if _, err := service.RequestName("org.freedesktop.systemd1", dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}

	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
	running := goleak.IgnoreCurrent()
	for range 20 {
		status, summary := units().Run(t.Context())
		want{Warning, "1 unit has failed: broken.service"}.check(t, "units", status, summary)
	}
	goleak.VerifyNone(t, running)
}
