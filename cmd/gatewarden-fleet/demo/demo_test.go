package demo

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	// What the device binary is made of: its change must end the cached result of
	// the tests that build it.
	_ "github.com/gatewarden/gatewarden/agent"
	_ "github.com/gatewarden/gatewarden/helper"
)

// limit of one run, whose aim is a minute: what a loaded machine takes, and less than
// `go test` gives to all.
const limit = 9 * time.Minute

// device builds the device binary.
func device(t *testing.T) string {
	t.Helper()
	sources, err := filepath.Glob("../../gatewarden/*.go")
	if err != nil || len(sources) == 0 {
		t.Fatalf("find the device's sources: %v", err)
	}
	for _, source := range sources {
		if _, err := os.ReadFile(source); err != nil { // the test cache notes what was read
			t.Fatal(err)
		}
	}
	binary := filepath.Join(t.TempDir(), "gatewarden")
	if out, err := exec.Command("go", "build", "-o", binary, "../../gatewarden").CombinedOutput(); err != nil {
		t.Fatalf("build the device binary: %v\n%s", err, out)
	}
	return binary
}

func requireSwtpm(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("swtpm_setup"); err != nil {
		t.Fatal("swtpm_setup is missing: `make setup` installs it")
	}
}

// TestWholeLifeOfAGateway is the demo itself: each of its steps checks its claim,
// and here once more from outside by what was printed.
func TestWholeLifeOfAGateway(t *testing.T) {
	requireSwtpm(t)
	binary := device(t)
	for seed := uint64(1); seed <= seeds(); seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			var out bytes.Buffer
			err := Run(ctx, Config{Out: &out, Gatewarden: binary, Once: true, Seed: seed, Dashboard: "127.0.0.1:0"})
			t.Log("\n" + out.String())
			if err != nil {
				t.Fatal(err)
			}
			checkOutput(t, out.String())
		})
	}
}

// seeds is how many runs there are: one, or twenty in `make test-long`.
func seeds() uint64 {
	if os.Getenv("GATEWARDEN_LONG") != "" {
		return 20
	}
	return 1
}

func checkOutput(t *testing.T, out string) {
	t.Helper()
	for i, s := range steps() {
		if !strings.Contains(out, fmt.Sprintf("✓ %d. %s", i+1, s.title)) {
			t.Errorf("step %d has no tick", i+1)
		}
	}
	for _, pattern := range []string{
		`trusted: release gatewarden-demo 1\.0\.0, firmware approved`,
		`none lost, none twice`,
		`refused +replayed `, `refused +expired `, `refused +for another device `, `refused +signed without the role `,
		`refused +altered in one byte `, `refused +unsigned `,
		`untrusted: kernel command line: .*init=/bin/sh`,
		`quarantine one \(q-gw-`,
		`the broker refuses the old certificate`,
		`may not publish on the old topics: .*0x87`,
		`it healed without a person: trusted`,
		`the TPM counts no authorisation failure`,
		`after a power cut they open`,
		`gateway-2, booted with an altered command line: .*PCR 12 `,
		`fetched [0-9]\.[0-9] of 64 MiB`,
		`a copy from before stays shut: .*the security epoch was raised`,
		`with the fleet server stopped and the power cut, the secret opens`,
		`committed: trusted: release gatewarden-demo 2\.0\.0`,
		`back on slot b by itself: trusted: release gatewarden-demo 2\.0\.0`,
		`the fleet knows why \(rolled-back\): .*check services is critical, it was ok before`,
		`refused +broken signature `, `refused +older epoch `, `refused +another product `, `refused +altered chunk `,
		`cut in the download, after [0-9]+ chunks: slot b boots`,
		`cut [0-9]+ ms into writing: slot [ab] boots`,
		`cut between "set trial" and the reboot: slot a boots on trial`,
		`cut [0-9]+ ms into the trial boot: slot [ab] boots`,
		`cut between the commit and the raised epoch: slot a boots`,
		`in the end: trusted: release gatewarden-demo 5\.0\.0.* [012] of them again; security epoch 3, and the secret opens`,
	} {
		if !regexp.MustCompile(pattern).MatchString(out) {
			t.Errorf("output lacks %s", pattern)
		}
	}
}

// TestAStepThatDoesNotHoldFailsTheDemo holds the demo to its promise that a tick
// was seen: with a device binary that does nothing, no step may get one.
func TestAStepThatDoesNotHoldFailsTheDemo(t *testing.T) {
	requireSwtpm(t)
	broken := filepath.Join(t.TempDir(), "gatewarden")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\nexit 7\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err := Run(context.Background(), Config{Out: &out, Gatewarden: broken, Once: true, Seed: 1, Dashboard: "127.0.0.1:0"})
	if err == nil || !strings.Contains(err.Error(), "step 1 (enrol)") || strings.Contains(out.String(), "✓") {
		t.Fatalf("error %v, output:\n%s", err, out.String())
	}
}

func TestGaplessSeesLossDoublesAndDisorder(t *testing.T) {
	for _, list := range [][]int{{2}, {1, 3}, {1, 1}, {1, 2, 2}, {2, 1}} {
		if gapless(list) == nil {
			t.Errorf("%v passed", list)
		}
	}
	if err := gapless([]int{1, 2, 3}); err != nil {
		t.Error(err)
	}
}

func TestKeepRefusesAFolderThatHoldsSomething(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := folder(dir); err == nil || !strings.Contains(err.Error(), "not an empty folder") {
		t.Fatalf("got %v", err)
	}
}

// TestMissingToolIsNamedWithItsPackage takes the tools away one by one.
func TestMissingToolIsNamedWithItsPackage(t *testing.T) {
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Fatal("ssh-keygen is missing: `make setup` installs it")
	}
	tools := t.TempDir()
	t.Setenv("PATH", tools)
	run := func() error {
		return Run(context.Background(), Config{Out: new(bytes.Buffer), Gatewarden: "/bin/false", Once: true, Seed: 1, Dashboard: "127.0.0.1:0"})
	}
	if err := run(); err == nil || !strings.Contains(err.Error(), "openssh-client") {
		t.Errorf("without ssh-keygen: %v", err)
	}
	if err := os.Symlink(keygen, filepath.Join(tools, "ssh-keygen")); err != nil {
		t.Fatal(err)
	}
	if err := run(); err == nil || !strings.Contains(err.Error(), "swtpm-tools") {
		t.Errorf("without swtpm_setup: %v", err)
	}
}
