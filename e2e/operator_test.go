package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// operate runs gatewarden-fleet as an operator does, and returns what it printed.
func (w *world) operate(args ...string) string {
	w.Helper()
	out, err := w.tryOperate(args...)
	w.check(err)
	return out
}

func (w *world) tryOperate(args ...string) (string, error) {
	w.Helper()
	tool := filepath.Join(w.dir, "gatewarden-fleet")
	if _, err := os.Stat(tool); err != nil {
		build := exec.Command("nice", "go", "build", "-o", tool, "./cmd/gatewarden-fleet")
		build.Dir = ".."
		if out, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build gatewarden-fleet: %w: %s", err, out)
		}
	}
	cmd := exec.Command(tool, append([]string{"--socket", w.settings.Listen.Operator}, args...)...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("gatewarden-fleet %s: %w: %s", strings.Join(args, " "), err, said.String())
	}
	return out.String(), nil
}

// said waits until a line of the fleet's explanation has all words.
func (w *world) said(limit time.Duration, words ...string) {
	w.Helper()
	w.Until(fmt.Sprintf("the verdict says %q", words), limit, func() error {
		d, err := w.api.Device(w.Context(), w.id)
		if err != nil || d.Verdict == nil {
			return fmt.Errorf("no verdict yet: %w", err)
		}
		if !hasLine(d.Verdict.Explanation, words) {
			return fmt.Errorf("it says\n%s", strings.Join(d.Verdict.Explanation, "\n"))
		}
		return nil
	})
}
