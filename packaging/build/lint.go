package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// lint has lintian and rpmlint look at the packages in dir, where they are
// installed. A warning is a fault.
func lint(ctx context.Context, dir string, stdout io.Writer) error {
	for _, l := range []struct {
		files   string
		command []string
	}{
		{"*.deb", []string{"lintian", "--allow-root", "--fail-on=error,warning", "--tag-display-limit=0"}},
		{"*.rpm", []string{"rpmlint", "--strict", "--config=packaging/rpmlint.toml"}},
	} {
		name := l.command[0]
		if _, err := exec.LookPath(name); err != nil {
			fmt.Fprintf(stdout, "%s was not run: it is not installed (tools/setup.sh packages)\n", name)
			continue
		}
		packages, err := filepath.Glob(filepath.Join(dir, l.files))
		if err != nil || len(packages) == 0 {
			continue
		}
		if err := runLint(ctx, append(l.command, packages...)); err != nil {
			return err
		}
		fmt.Fprintf(stdout, "%s: %d packages are clean\n", name, len(packages))
	}
	return nil
}

// runLint runs a linter whose cpio can't write outside of its own folder: the
// names in nfpm's RPM files are absolute, and rpmlint unpacks them.
func runLint(ctx context.Context, command []string) error {
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		return fmt.Errorf("%s needs cpio: %w", command[0], err)
	}
	dir, err := os.MkdirTemp("", "gatewarden-lint")
	if err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	defer os.RemoveAll(dir)
	script := fmt.Sprintf("#!/bin/sh\nexec %s --no-absolute-filenames \"$@\"\n", cpio)
	if err := os.WriteFile(filepath.Join(dir, "cpio"), []byte(script), 0o755); err != nil {
		return fmt.Errorf("wrap cpio: %w", err)
	}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s finds faults: %w\n%s", command[0], err, strings.TrimSpace(string(out)))
	}
	return nil
}
