package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// line is one line of the budget. To build one, give it a measure.
type line struct {
	number  int
	what    string
	limit   string
	measure func(ctx context.Context) (figure, error) // nil: not built
}

// figure is what was measured.
type figure struct {
	text     string // with its unit
	over     bool   // above the budget
	notBuilt bool   // the part is missing: text says which
}

// budget lists every line, in order.
func budget() []line {
	idle := &idle{}
	return []line{
		{1, "idle RSS of the agent", "<= 12 MB; growth over 10,000 checks <= 0.5 MB", idle.memory},
		{2, "device binary, static, stripped, amd64", "<= 10.5 MB, aim 9", deviceBinary},
		{3, "idle wakeups of the agent", "<= 0.2/s over 180 s", idle.rate},
		{4, "TPM commands", "<= 16 to enrol; 1 Quote per attestation; <= 2 signatures to start", tpmCommands},
		{5, "attestation over a raw TPM2_Quote", "<= 1.15x", overhead},
		{6, "start to first attested health message", "<= 1.5x the sum of its parts", startTime},
		{7, "full A/B install of 256 MiB", "CPU <= 0.8x RAUC, RSS <= 24 MB", install},
		{8, "bytes for an update that changes 2 %", "<= casync", smallUpdate},
		{9, "an update that changes nothing", "<= 64 KB", noUpdate},
		{10, "power cut at any write", "0 unbootable; <= 1 chunk again; 0 lockouts", nil},
		{11, "full appraisal, one core", "<= 1.5x one ECDSA P-256 verify", appraisal},
		{12, "cost per attestation, 100k against 1k devices", "<= 1.15x", largeFleet},
		{13, "IMA list", "<= 1 us an entry; <= 256 B a device", imaEntry},
		{14, "certificates issued, one core", ">= 0.8x the floor", issuing},
		{15, "registry", "<= 1 KiB a device; page 1M/10k <= 1.7x", nil},
		{16, "memory per connected device", "<= 2 KB with an external broker", nil},
		{17, "reconnect storm", "<= 1.3x ideal; <= 1.3 handshakes a device", nil},
	}
}

// buildDevice builds the device binary as the Makefile does.
func buildDevice(ctx context.Context, out string, env ...string) error {
	flags, err := os.ReadFile(source + "/build.flags")
	if err != nil {
		return fmt.Errorf("read build flags: %w", err)
	}
	args := append([]string{"build", "-trimpath", "-ldflags=-s -w -funcalign=4", "-o", out}, strings.Fields(string(flags))...)
	cmd := exec.CommandContext(ctx, "go", append(args, "./"+source)...)
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux"), env...)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", source, err, text)
	}
	return nil
}

const source = "cmd/gatewarden"

const maxDeviceSize = 10_500_000 // bytes

func deviceBinary(ctx context.Context) (figure, error) {
	if _, err := os.Stat(source); err != nil {
		return figure{text: "there is no " + source, notBuilt: true}, nil
	}
	dir, err := os.MkdirTemp("", "gatewarden-bench")
	if err != nil {
		return figure{}, fmt.Errorf("make folder: %w", err)
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "gatewarden")
	if err := buildDevice(ctx, binary, "GOARCH=amd64"); err != nil {
		return figure{}, err
	}
	info, err := os.Stat(binary)
	if err != nil {
		return figure{}, fmt.Errorf("read size: %w", err)
	}
	return figure{text: fmt.Sprintf("%.2f MB", float64(info.Size())/1e6), over: info.Size() > maxDeviceSize}, nil
}
