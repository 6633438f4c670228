package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
)

// notices returns the licence texts of the Go library and of all modules that are
// linked, each text once.
func notices(ctx context.Context, info *debug.BuildInfo) (string, error) {
	root, err := output(ctx, "go", "env", "GOROOT")
	if err != nil {
		return "", err
	}
	dirs := map[string]string{"the Go standard library": root}
	names := []string{"the Go standard library"}
	for _, m := range info.Deps {
		dir, err := output(ctx, "go", "list", "-m", "-f", "{{.Dir}}", m.Path)
		if err != nil {
			return "", err
		}
		dirs[m.Path] = dir
		names = append(names, m.Path)
	}
	var texts []string
	users := map[string][]string{}
	for _, name := range names {
		text, err := licences(dirs[name])
		if err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
		if users[text] == nil {
			texts = append(texts, text)
		}
		users[text] = append(users[text], name)
	}
	var b strings.Builder
	for _, text := range texts {
		fmt.Fprintf(&b, "%s\n\nThis is linked: %s.\n\n%s\n\n", strings.Repeat("=", 78), wrap(strings.Join(users[text], ", "), 76, "  "), text)
	}
	return b.String(), nil
}

// licences reads the licence files in the folder of a module.
func licences(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("read module: %w", err)
	}
	named := regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)([.-].*)?$`)
	var texts []string
	for _, e := range entries {
		if e.IsDir() || !named.MatchString(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", fmt.Errorf("read licence: %w", err)
		}
		texts = append(texts, strings.TrimSpace(string(text)))
	}
	if len(texts) == 0 {
		return "", fmt.Errorf("there is no licence file")
	}
	return strings.Join(texts, "\n\n"), nil
}
