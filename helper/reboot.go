package helper

import (
	"context"
	"fmt"
	"os/exec"
)

// Systemctl asks systemd for an orderly reboot. It takes nothing from outside.
func Systemctl(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "/usr/bin/systemctl", "reboot")
	cmd.Env = []string{}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("systemctl reboot: %w: %.200s", err, out)
	}
	return nil
}
