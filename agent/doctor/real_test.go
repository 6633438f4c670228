package doctor

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/attest"
)

// TestEveryRecordedLogIsJudgedByWhatItIs: logs of real machines, each beside a chip
// that was extended so.
func TestEveryRecordedLogIsJudgedByWhatItIs(t *testing.T) {
	dir := os.Getenv("GATEWARDEN_CORPUS")
	if dir == "" {
		t.Skip("GATEWARDEN_CORPUS is not set: the corpus of recorded boot logs was not run")
	}
	b := newBox(t)
	var manifest []struct {
		Path   string `json:"path"`
		Expect *struct {
			Err  *string                      `json:"err"`
			PCRs map[string]map[string]string `json:"pcrs"`
		} `json:"expect"`
	}
	b.must(json.Unmarshal(b.load(filepath.Join(dir, "manifest.json")), &manifest))
	seen := map[string]int{}
	for _, entry := range manifest {
		if entry.Expect == nil {
			continue
		}
		raw := b.load(filepath.Join(dir, entry.Path))
		if strings.HasSuffix(entry.Path, ".b64") {
			raw = must(base64.StdEncoding.DecodeString(strings.TrimSpace(string(raw))))(t)
		}
		b.write(eventLogFile, string(raw))
		b.c.PCRs = map[int][32]byte{}
		want := map[bool]string{true: "damaged", false: "sha1"}[entry.Expect.Err != nil]
		if log, err := attest.ParseEventLog(raw); err == nil {
			if values, err := log.Replay(); err == nil {
				want = "ok or thin"
				for pcr, value := range values {
					b.c.PCRs[pcr] = value
				}
			}
		}
		n := &notes{check: eventLog()}
		lookAtEventLog(t.Context(), b.again().Machine, n)
		f := n.all()[0]
		got := strings.TrimPrefix(f.Case, "event-log.")
		seen[orElse(got, f.Level)]++
		if got != want && !(want == "ok or thin" && (f.Level == OK || got == "thin")) {
			t.Errorf("%s: %s %s, want %s", filepath.Base(entry.Path), f.Case, f.Found, want)
		}
	}
	t.Log(seen)
	for _, kind := range []string{"ok", "damaged", "sha1"} {
		if seen[kind] == 0 {
			t.Errorf("no log is %s: %v", kind, seen)
		}
	}
}

// TestAListenerIsKnownWithoutConnecting: to connect would start the helper.
func TestAListenerIsKnownWithoutConnecting(t *testing.T) {
	m := &Machine{Root: "/"}
	path := filepath.Join(folder(t), "s")
	l := must(net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}))(t)
	l.SetUnlinkOnClose(false)
	if listens, err := m.listens(path); err != nil || !listens {
		t.Errorf("a listener: %v, %v", listens, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if listens, err := m.listens(path); err != nil || listens {
		t.Errorf("nobody behind a socket: %v, %v", listens, err)
	}
	if listens, err := m.listens(path + "x"); err != nil || listens {
		t.Errorf("no socket: %v, %v", listens, err)
	}
}

func TestTheKernelIsAskedForFileSystemsAndDevices(t *testing.T) {
	v, err := StatVolume(t.TempDir())
	if err != nil || v.Device == 0 || v.Kind == 0 || v.Free == 0 || v.ReadOnly {
		t.Errorf("%+v, %v", v, err)
	}
	if v, err := StatVolume("/proc"); err != nil || v.Free != 0 {
		t.Errorf("/proc: %+v, %v", v, err)
	}
	if _, err := StatVolume("/nonexistent"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if block, err := IsBlock("/dev/null"); err != nil || block {
		t.Errorf("/dev/null: %v, %v", block, err)
	}
	if _, err := IsBlock("/nonexistent"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
