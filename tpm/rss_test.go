package tpm_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// attesterOf names the environment variable that makes this test program an attester:
// a process that does nothing but quote, on the chip at a socket.
const attesterOf = "GATEWARDEN_TEST_ATTESTER"

// maxGrowth of an attester's resident memory from a tenth of its quotes to the last,
// in KiB.
const maxGrowth = 1024

// TestResidentMemoryStaysFlatOverQuotes: 10,000 attestations of one process, as the
// kernel counts its memory.
func TestResidentMemoryStaysFlatOverQuotes(t *testing.T) {
	t.Parallel()
	_, power := tpmtest.Start(t)
	cmd := exec.CommandContext(t.Context(), must(os.Executable())(t), "-test.run=^$")
	cmd.Env = append(os.Environ(), attesterOf+"="+power.Socket)
	out := must(cmd.CombinedOutput())(t)
	var early, late, quotes int
	at := strings.Index(string(out), "resident: ")
	if at < 0 {
		t.Fatalf("the attester says %s", out)
	}
	if _, err := fmt.Sscanf(string(out[at:]), "resident: %d KiB, %d KiB after %d", &early, &late, &quotes); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d KiB after a tenth of %d quotes, %d KiB after all", early, quotes, late)
	if early == 0 || quotes != times(10_000) || late-early > maxGrowth {
		t.Errorf("it grew by %d KiB over %d quotes, by more than %d", late-early, quotes, maxGrowth)
	}
}

// attest is the other process: it prints what the kernel counts.
func attest(socket string) error {
	debug.SetGCPercent(25) // as the agent
	runtime.GOMAXPROCS(1)
	ctx := context.Background()
	chip, err := tpm.Open(ctx, "unix:"+socket)
	if err != nil {
		return err
	}
	defer chip.Close()
	ak, err := chip.CreateKey(ctx, tpm.AK)
	if err != nil {
		return err
	}
	all, early := times(10_000), 0
	for i := range all {
		if i == all/10 {
			early = resident()
		}
		nonce := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		if _, _, err := chip.Quote(ctx, ak, nonce[:], pcrs()); err != nil {
			return err
		}
		if _, err := chip.ReadPCRs(ctx, pcrs()); err != nil {
			return err
		}
	}
	_, err = fmt.Printf("resident: %d KiB, %d KiB after %d\n", early, resident(), all)
	return err
}

// resident is what /proc/self/status says of this process, in KiB; 0 if it says nothing.
func resident() (kib int) {
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kib); err == nil {
			break
		}
	}
	return kib
}

func TestMain(m *testing.M) {
	if socket := os.Getenv(attesterOf); socket != "" {
		if err := attest(socket); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	tpmtest.Main(m)
}
