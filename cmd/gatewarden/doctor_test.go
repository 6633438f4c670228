package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/agent/doctor"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

func TestDoctorsExitCodeIsThatOfTheAbilitiesWanted(t *testing.T) {
	d := doctor.Diagnosis{Abilities: []doctor.Can{{Ability: "enrol", Answer: "yes"}, {Ability: "attest", Answer: "unknown"}, {Ability: "seal", Answer: "no"}}}
	for wanted, want := range map[string]int{"enrol": 0, "enrol,attest": 3, "attest,seal": 1, "seal": 1, "enrol,attest,seal": 1} {
		if got := code(doctorExit(d, strings.Split(wanted, ","))); got != want {
			t.Errorf("for %s: exit code %d, want %d", wanted, got, want)
		}
	}
}

// TestTPMInfoShowsTheChip as text and as JSON, and leaves nothing in it.
func TestTPMInfoShowsTheChip(t *testing.T) {
	_, power := tpmtest.StartManufactured(t)
	config := filepath.Join(t.TempDir(), "agent.toml")
	if err := os.WriteFile(config, []byte("tpm = \"unix:"+power.Socket+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"tpm", "info", "--config", config}, &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d: %s", code, &stderr)
	}
	for _, want := range []string{
		"maker         IBM SW   TPM, firmware ", "TPM 2.0 revision 1.", "PCR banks     sha256", "EK            rsa2048 at 0x1c00002, ", "EK            ecc-p384 at 0x1c00016, ",
		"storage key   none at 0x81000001", "passwords     owner not set", "0 of 3 failures", "epoch counter not there", "powered since it was cleared",
	} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("no %q in\n%s", want, &stdout)
		}
	}
	stdout.Reset()
	if code := run(t.Context(), []string{"tpm", "info", "--json", "--config", config}, &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d: %s", code, &stderr)
	}
	if !strings.Contains(stdout.String(), `"epoch_counter": false`) || !strings.Contains(stdout.String(), `"lockout_counter": 0`) {
		t.Errorf("other keys: %s", &stdout)
	}
	var c doctor.Chip
	if err := json.Unmarshal(stdout.Bytes(), &c); err != nil || len(c.EK) != 2 || !c.SHA256Bank {
		t.Errorf("%v: %s", err, &stdout)
	}
	if handles, err := power.Handles(); err != nil || len(handles) != 0 {
		t.Errorf("handles %x are left, %v", handles, err)
	}
}
