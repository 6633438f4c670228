package lab

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// qemu plays the monitor of a machine and tells what it was asked.
func qemu(t *testing.T, socket string) <-chan string {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	asked := make(chan string, 8)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(conn, `{"QMP":{}}`)
			for in := json.NewDecoder(conn); ; {
				var request struct {
					Arguments struct {
						Line string `json:"command-line"`
					}
				}
				if in.Decode(&request) != nil {
					break
				}
				if request.Arguments.Line != "" {
					asked <- request.Arguments.Line
				}
				fmt.Fprintln(conn, `{"return":""}`)
			}
			conn.Close()
		}
	}()
	return asked
}

// TestOnlyAFirmwareThatStaysSilentAfterARestartIsResetAgain: nothing else that takes
// long is helped over.
func TestOnlyAFirmwareThatStaysSilentAfterARestartIsResetAgain(t *testing.T) {
	dir, err := os.MkdirTemp("", "gwreset") // short: a socket lies there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	vm := &VM{Lab: &Lab{TB: t}, dir: dir, ended: make(chan struct{})}
	asked := qemu(t, filepath.Join(dir, "qmp.sock"))
	says := func(line string, since time.Time, want ...string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "serial.log"), []byte(line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		vm.silent = since
		if err := vm.notYet(); err == nil {
			t.Error("the machine is there")
		}
		var got []string
		for len(asked) > 0 {
			got = append(got, <-asked)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q, silent for %s: QEMU was asked %q, want %q", line, time.Since(since), got, want)
		}
	}
	const restart = "[   55.508027] reboot: Restarting system"
	says("BdsDxe: starting Boot0001", time.Now().Add(-time.Hour))
	says(restart, time.Time{})
	says(restart, time.Now().Add(-silenceLimit/2))
	says(restart, time.Now().Add(-2*silenceLimit), "system_reset")
	if time.Since(vm.silent) > time.Minute {
		t.Error("the next reset would follow at once")
	}
}
