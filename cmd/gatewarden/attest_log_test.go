package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/attest"
)

func TestPCRsAreReadAsTheKernelShowsThem(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "pcr-sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	show := func(pcr int, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "pcr-sha256", strconv.Itoa(pcr)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, pcr := range attest.Selection() {
		show(pcr, strings.Repeat("A0", 32)+"\n")
	}
	pcrs, err := pcrsOfMachine(dir, "sha256")
	if err != nil || len(pcrs) != 15 || pcrs[14][0] != 0xa0 || len(pcrs[0]) != 32 {
		t.Errorf("%x, %v", pcrs, err)
	}
	show(3, "no digest\n")
	if _, err := pcrsOfMachine(dir, "sha256"); err == nil {
		t.Error("a PCR that can't be read is accepted")
	}
	if _, err := pcrsOfMachine(dir, "sha1"); err == nil || !strings.Contains(err.Error(), "hint: --pcrs FILE") {
		t.Errorf("a kernel that does not show them: %v", err)
	}
}
