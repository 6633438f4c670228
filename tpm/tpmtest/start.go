package tpmtest

import (
	"context"
	"os"
	"os/exec"
	"testing"
)

// Start gives a test a fresh chip, switched on, without EK certificates. Both are
// gone when the test ends. Without swtpm the test is skipped, but fails in CI.
func Start(tb testing.TB) (*Machine, *Power) {
	tb.Helper()
	require(tb, "swtpm")
	m, err := newMachine(tempDir(tb))
	if err != nil {
		tb.Fatalf("make machine: %v", err)
	}
	return m, PowerOn(tb, m)
}

// StartManufactured is Start with EK certificates; it takes about a second.
func StartManufactured(tb testing.TB) (*Machine, *Power) {
	tb.Helper()
	require(tb, "swtpm", "swtpm_setup")
	m, err := Manufacture(context.Background(), tempDir(tb))
	if err != nil {
		tb.Fatal(err)
	}
	return m, PowerOn(tb, m)
}

// PowerOn switches a machine on until the test ends.
func PowerOn(tb testing.TB, m *Machine) *Power {
	tb.Helper()
	p, err := m.PowerOn(context.Background())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = p.Kill() })
	return p
}

func require(tb testing.TB, programs ...string) {
	tb.Helper()
	for _, name := range programs {
		if _, err := exec.LookPath(name); err == nil {
			continue
		}
		if os.Getenv("CI") != "" {
			tb.Fatalf("%s is not installed", name)
		}
		tb.Skipf("%s is not installed: run \"make setup\"", name)
	}
}

// tempDir is short, for Unix sockets live in it.
func tempDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
