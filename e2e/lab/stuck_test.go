package lab

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestOnlyAFirmwareThatStaysSilentAfterARestartIsStuck: nothing else that takes long is
// helped over.
func TestOnlyAFirmwareThatStaysSilentAfterARestartIsStuck(t *testing.T) {
	const restart = "[   55.508027] reboot: Restarting system"
	for name, c := range map[string]struct {
		line   string
		logged bool
		silent time.Duration
		want   bool
	}{
		"the firmware speaks": {line: "BdsDxe: starting Boot0001", silent: time.Hour},
		"just restarted":      {line: restart},
		"not for long":        {line: restart, silent: silenceLimit / 2},
		"logs its writes":     {line: restart, logged: true, silent: time.Hour},
		"silent":              {line: restart, silent: 2 * silenceLimit, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			vm := &VM{Lab: &Lab{TB: t}, dir: t.TempDir(), machine: Machine{Logged: c.logged}}
			if err := os.WriteFile(filepath.Join(vm.dir, "serial.log"), []byte(c.line+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if c.silent > 0 {
				vm.silent = time.Now().Add(-c.silent)
			}
			if got := vm.stuck(); got != c.want {
				t.Errorf("stuck: %t", got)
			}
			if vm.stuck() {
				t.Error("and at once again")
			}
		})
	}
}
