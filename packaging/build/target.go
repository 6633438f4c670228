package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// target is a kind of machine.
type target struct {
	name string   // Debian's
	nfpm string   // nfpm's, which knows what rpm calls it
	env  []string // for the Go tool
}

func targets() []target {
	return []target{
		{"amd64", "amd64", []string{"GOARCH=amd64"}},
		{"arm64", "arm64", []string{"GOARCH=arm64"}},
		{"armhf", "arm7", []string{"GOARCH=arm", "GOARM=7"}},
		{"riscv64", "riscv64", []string{"GOARCH=riscv64"}},
	}
}

func chooseTargets(names []string) ([]target, error) {
	var chosen []target
	for _, name := range names {
		known := false
		for _, t := range targets() {
			if t.name == name {
				chosen, known = append(chosen, t), true
			}
		}
		if !known {
			return nil, fmt.Errorf("there is no architecture %q: amd64, arm64, armhf, riscv64", name)
		}
	}
	return chosen, nil
}

// compile builds a program for t, as `make build` does, but for what the Go tool
// would note about the checkout.
func compile(ctx context.Context, s source, program string, t target, file string) error {
	flags, err := os.ReadFile(filepath.Join("cmd", program, "build.flags"))
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("read build flags: %w", err)
	}
	args := append([]string{"build", "-trimpath", "-buildvcs=false"}, strings.Fields(string(flags))...)
	linked := fmt.Sprintf("-s -w -funcalign=4 -X main.version=%s -X main.commit=%s -X main.buildTime=%s", s.described, s.commit, s.time.Format(time.RFC3339))
	return goTool(ctx, append([]string{"CGO_ENABLED=0", "GOOS=linux"}, t.env...), append(args, "-ldflags", linked, "-o", file, "./cmd/"+program)...)
}

// goTool runs the go command in the root of the module.
func goTool(ctx context.Context, env []string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", args[0], err, out)
	}
	return nil
}
