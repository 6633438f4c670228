package main

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	deviceBinary  = "cmd/gatewarden"
	maxDeviceSize = 10_500_000 // bytes, BUDGETS line 2
)

// banned lists symbols whose presence means that the linker had to keep every
// exported method of every type. Execute alone is not enough: it is inlined.
func banned() []string {
	return []string{
		"text/template.(*Template).Execute", "text/template.(*Template).execute", "html/template.(*Template).Execute",
		"reflect.Value.MethodByName", "reflect.(*rtype).MethodByName",
	}
}

// checkBinary builds the device binary twice: as it is released, for its size,
// and with its symbols.
func checkBinary(ctx context.Context, root string) (string, error) {
	if !exists(root, deviceBinary) {
		return "not built: there is no " + deviceBinary, nil
	}
	dir, err := os.MkdirTemp("", "gatewarden-check")
	if err != nil {
		return "", fmt.Errorf("make folder: %w", err)
	}
	defer os.RemoveAll(dir)
	env := []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64"}
	released, symbols := filepath.Join(dir, "released"), filepath.Join(dir, "symbols")
	flags, err := deviceFlags(root)
	if err != nil {
		return "", err
	}
	build := append([]string{"build", "-trimpath"}, flags...)
	if err := goRun(ctx, root, env, append(build, "-ldflags=-s -w -funcalign=4", "-o", released, "./"+deviceBinary)...); err != nil {
		return "", err
	}
	if err := goRun(ctx, root, env, append(build, "-o", symbols, "./"+deviceBinary)...); err != nil {
		return "", err
	}
	info, err := os.Stat(released)
	if err != nil {
		return "", fmt.Errorf("read size: %w", err)
	}
	note := fmt.Sprintf("%.2f MB of %.1f, amd64, stripped", float64(info.Size())/1e6, maxDeviceSize/1e6)
	var bad []string
	if info.Size() > maxDeviceSize {
		bad = append(bad, fmt.Sprintf("%d bytes, the ceiling is %d", info.Size(), maxDeviceSize))
	}
	found, err := inspect(symbols)
	if err != nil {
		return note, err
	}
	return note, faults(append(bad, found...))
}

// deviceFlags are the flags with which the Makefile builds the device binary too.
func deviceFlags(root string) ([]string, error) {
	data, err := os.ReadFile(filepath.Join(root, deviceBinary, "build.flags"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read build flags: %w", err)
	}
	return strings.Fields(string(data)), nil
}

// inspect returns what is wrong with the unstripped ELF file at path.
func inspect(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read binary: %w", err)
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		return nil, fmt.Errorf("read symbols: %w", err)
	}
	var bad []string
	seenMain := false
	for _, s := range symbols {
		seenMain = seenMain || s.Name == "main.main"
		if slices.Contains(banned(), s.Name) {
			bad = append(bad, fmt.Sprintf("%s is linked: it keeps all methods alive; go build -ldflags=-dumpdep shows by which way", s.Name))
		}
	}
	if !seenMain {
		return nil, errors.New("read symbols: main.main is missing, so the absence of others proves nothing")
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			bad = append(bad, "the binary is not static: it names a dynamic loader")
		}
	}
	return bad, nil
}
