package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// checkCounts measures the budget's line of TPM commands: a count that no busy
// machine changes.
func checkCounts(ctx context.Context, root string) (string, error) {
	if !exists(root, "internal/bench") {
		return "not built: there is no internal/bench", nil
	}
	if _, err := exec.LookPath("swtpm"); err != nil {
		return "not run: swtpm is not installed (make setup)", nil
	}
	cmd := exec.CommandContext(ctx, "go", "run", "./internal/bench", "4")
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return "", fmt.Errorf("measure TPM commands: %w", errors.Join(err, errors.New(text)))
	}
	return strings.Join(strings.Fields(text), " "), nil
}
