package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
	return []line{
		{1, "idle RSS of the agent", "<= 12 MB; growth over 10,000 checks <= 0.5 MB", nil},
		{2, "device binary, static, stripped, amd64", "<= 10.5 MB, aim 9", deviceBinary},
		{3, "idle wakeups of the agent", "<= 0.2/s over 180 s", nil},
		{4, "TPM commands", "<= 16 to enrol; 1 Quote per attestation", nil},
		{5, "attestation over a raw TPM2_Quote", "<= 1.15x", nil},
		{6, "start to first attested health message", "<= 1.5x the sum of its parts", nil},
		{7, "full A/B install of 256 MiB", "CPU <= 0.8x RAUC, RSS <= 24 MB", nil},
		{8, "bytes for an update that changes 2 %", "<= casync", nil},
		{9, "an update that changes nothing", "<= 64 KB", nil},
		{10, "power cut at any write", "0 unbootable; <= 1 chunk again; 0 lockouts", nil},
		{11, "full appraisal, one core", "<= 1.5x one ECDSA P-256 verify", nil},
		{12, "cost per attestation, 100k against 1k devices", "<= 1.15x", nil},
		{13, "IMA list", "<= 1 us an entry; <= 256 B a device", nil},
		{14, "certificates issued, one core", ">= 0.8x the floor", nil},
		{15, "registry", "<= 1 KiB a device; page 1M/10k <= 1.7x", nil},
		{16, "memory per connected device", "<= 2 KB with an external broker", nil},
		{17, "reconnect storm", "<= 1.3x ideal; <= 1.3 handshakes a device", nil},
	}
}

const maxDeviceSize = 10_500_000 // bytes

func deviceBinary(ctx context.Context) (figure, error) {
	const source = "cmd/gatewarden"
	if _, err := os.Stat(source); err != nil {
		return figure{text: "there is no " + source, notBuilt: true}, nil
	}
	dir, err := os.MkdirTemp("", "gatewarden-bench")
	if err != nil {
		return figure{}, fmt.Errorf("make folder: %w", err)
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "gatewarden")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "./"+source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if text, err := cmd.CombinedOutput(); err != nil {
		return figure{}, fmt.Errorf("build %s: %w: %s", source, err, text)
	}
	info, err := os.Stat(binary)
	if err != nil {
		return figure{}, fmt.Errorf("read size: %w", err)
	}
	return figure{text: fmt.Sprintf("%.2f MB", float64(info.Size())/1e6), over: info.Size() > maxDeviceSize}, nil
}
