package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/format"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// goRun runs the go command in root; what it printed is the error's text.
func goRun(ctx context.Context, root string, env []string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if text := strings.TrimSpace(string(out)); text != "" {
		return errors.New(text)
	}
	return fmt.Errorf("run go %s: %w", strings.Join(args, " "), err)
}

// checkFormat compares each Go file, those of other modules inside included,
// with what gofmt would make of it.
func checkFormat(_ context.Context, root string) (string, error) {
	var bad []string
	n := 0
	err := walk(root, ".go", func(name string, data []byte) error {
		n++
		formatted, err := format.Source(data)
		if err != nil {
			return fmt.Errorf("format %s: %w", name, err)
		}
		if !bytes.Equal(formatted, data) {
			bad = append(bad, name+": not formatted; run gofmt -w")
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d files", n), faults(bad)
}

// walk calls do with the path below root and the content of each file whose name
// ends in suffix. Hidden folders, testdata and what was built are left out.
func walk(root, suffix string, do func(name string, data []byte) error) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if path != root && (name[0] == '.' && name != ".ci" || name == "testdata" || name == "bin") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, suffix) {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read file: %w", err)
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return fmt.Errorf("name file: %w", err)
		}
		return do(filepath.ToSlash(rel), data)
	})
}

func checkVet(ctx context.Context, root string) (string, error) {
	return "", goRun(ctx, root, nil, "vet", "./...")
}

func checkStatic(ctx context.Context, root string) (string, error) {
	return "", goRun(ctx, root, nil, "tool", "-modfile=tools/go.mod", "staticcheck", "./...")
}

func checkTidy(ctx context.Context, root string) (string, error) {
	return "", goRun(ctx, root, nil, "mod", "tidy", "-diff")
}

// checkVulnerabilities needs a copy of the database: a build must not depend on
// the network.
func checkVulnerabilities(ctx context.Context, root string) (string, error) {
	db := os.Getenv("GOVULNDB")
	if db == "" {
		return "not run: GOVULNDB names no database", nil
	}
	return "", goRun(ctx, root, nil, "tool", "-modfile=tools/go.mod", "govulncheck", "-db="+db, "./...")
}

// otherTargets are what the device binary is released for besides amd64.
func otherTargets() [][]string {
	return [][]string{
		{"GOARCH=arm64"},
		{"GOARCH=arm", "GOARM=7"},
		{"GOARCH=riscv64"},
	}
}

func checkCross(ctx context.Context, root string) (string, error) {
	if !exists(root, deviceBinary) {
		return "not built: there is no " + deviceBinary, nil
	}
	var built []string
	for _, target := range otherTargets() {
		env := append([]string{"CGO_ENABLED=0", "GOOS=linux"}, target...)
		if err := goRun(ctx, root, env, "build", "-o", os.DevNull, "./"+deviceBinary); err != nil {
			return "", fmt.Errorf("%s: %w", target[0], err)
		}
		built = append(built, strings.TrimPrefix(target[0], "GOARCH="))
	}
	return strings.Join(built, ", "), nil
}

func exists(root, name string) bool {
	_, err := os.Stat(filepath.Join(root, name))
	return err == nil
}
