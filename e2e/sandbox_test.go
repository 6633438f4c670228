package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// keepsAHijackedAgent puts the probe in the agent's place: the installed unit, byte for
// byte the one whose exposure `make check` holds, runs a program that tries what a
// hijacked agent would.
func (w *world) keepsAHijackedAgent() {
	w.Helper()
	for _, unit := range []string{"gatewarden/gatewarden.service", "gatewarden/gatewarden-helper.service", "systemd/gatewarden-confirm.service"} {
		want, err := os.ReadFile(filepath.Join("../packaging", unit))
		w.check(err)
		name := filepath.Base(unit)
		if !bytes.Equal(w.vm.Get("/usr/lib/systemd/system/"+name), want) {
			w.Errorf("%s on the machine is not packaging/%s", name, unit)
		}
		if out := w.vm.Run("systemctl show -p FragmentPath -p DropInPaths " + name); out != "FragmentPath=/lib/systemd/system/"+name+"\nDropInPaths=\n" {
			w.Errorf("%s is not the installed unit alone: %s", name, out)
		}
	}
	const agent, probe = "/usr/bin/gatewarden", "/var/lib/lab/probe"
	w.vm.Put(probe, w.buildProbe())
	w.vm.Run("chmod 755 " + probe + "; systemctl stop gatewarden; mount --bind " + probe + " " + agent + "; systemctl start gatewarden")
	w.onlyItsWork(w.probed("journalctl --no-pager -o cat -u gatewarden"), w.probed(agent))
	began := time.Now()
	w.vm.Run("systemctl stop gatewarden; umount " + agent + "; rm " + probe + "; systemctl start gatewarden")
	w.judged(trusted, began)
}

// onlyItsWork compares what the unit let the probe do with what root can do outside.
func (w *world) onlyItsWork(inside, outside map[string]string) {
	w.Helper()
	// The root is read-only for everybody, and the kernel does not have all sockets.
	nowhere := []string{"write to /etc", "write to /usr", "socket AF_ALG", "socket AF_BLUETOOTH", "socket AF_CAN", "socket AF_VSOCK"}
	shown := 0
	for name, why := range inside {
		switch own := strings.HasPrefix(name, "own: "); {
		case own && why != "":
			w.Errorf("the agent needs this, and it fails: %s: %s", name, why)
		case !own && why == "":
			w.Errorf("the unit lets it %s", name)
		case !own && outside[name] == "":
			shown++
		case !own && !slices.Contains(nowhere, name):
			w.Errorf("it works nowhere, so it shows nothing: %s: %s", name, outside[name])
		}
	}
	w.Logf("the unit refuses %d things that root can do outside of it, of %d attempts", shown, len(inside))
}

// probed returns what the probe said last in the output of a command.
func (w *world) probed(command string) map[string]string {
	w.Helper()
	out := w.vm.Run(command)
	_, line, found := strings.Cut(out, "probe: ")
	if !found {
		w.Fatalf("the probe said nothing:\n%s", out)
	}
	var results map[string]string
	line, _, _ = strings.Cut(line, "\n")
	w.check(json.Unmarshal([]byte(line), &results))
	return results
}

func (w *world) buildProbe() []byte {
	w.Helper()
	path := filepath.Join(w.dir, "probe")
	cmd := exec.Command("go", "build", "-o", path, "../packaging/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		w.Fatalf("build the probe: %v: %s", err, out)
	}
	program, err := os.ReadFile(path)
	w.check(err)
	return program
}
