package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const maintainer = "Gatewarden maintainers <gatewarden@users.noreply.github.com>"

// buildProgram makes the packages of one program. What does not depend on the
// machine is made once.
func buildProgram(ctx context.Context, s source, program string, chosen []target, formats []string, out string, stdout io.Writer) error {
	stage, err := os.MkdirTemp("", "gatewarden-packages")
	if err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	defer os.RemoveAll(stage)
	if err := writeManual(ctx, s, program, filepath.Join(stage, "docs")); err != nil {
		return err
	}
	if err := writeChangelogs(s, program, stage); err != nil {
		return err
	}
	for _, t := range chosen {
		binary := filepath.Join(stage, program)
		if err := compile(ctx, s, program, t, binary); err != nil {
			return err
		}
		if err := describe(ctx, s, program, binary, stage); err != nil {
			return err
		}
		for _, format := range formats {
			if err := pack(ctx, s, program, t, format, stage, out); err != nil {
				return err
			}
			fmt.Fprintf(stdout, "%s %s %s %s\n", program, s.packageVersion(), t.name, format)
		}
	}
	return nil
}

// pack has nfpm make one package of what lies in stage.
func pack(ctx context.Context, s source, program string, t target, format, stage, out string) error {
	template, err := os.ReadFile(filepath.Join("packaging", program, "nfpm.yaml"))
	if err != nil {
		return fmt.Errorf("read description of the package: %w", err)
	}
	pages, err := filepath.Glob(filepath.Join(stage, "docs", "man", "*.gz"))
	if err != nil || len(pages) == 0 {
		return fmt.Errorf("there is no man page in %s", stage)
	}
	values := map[string]string{
		"ARCH": t.nfpm, "FORMAT": format, "MAINTAINER": maintainer, "STAGE": stage, "VERSION": s.packageVersion(),
		"RELEASE": "", "DOC": "", "RPM_CHANGELOG": "",
	}
	if format == "rpm" {
		values["RELEASE"], values["DOC"], values["RPM_CHANGELOG"] = "1", "doc", filepath.Join(stage, "changelog.json")
	}
	var lines []string
	for _, page := range pages {
		lines = append(lines, fmt.Sprintf(`  - {src: %q, dst: /usr/share/man/man1/%s, type: %q, file_info: *file}`, page, filepath.Base(page), values["DOC"]))
	}
	values["PAGES"] = strings.Join(lines, "\n")
	var unknown error
	text := os.Expand(string(template), func(name string) string {
		value, ok := values[name]
		if !ok {
			unknown = fmt.Errorf("nfpm.yaml uses ${%s}, which nobody sets", name)
		}
		return value
	})
	if unknown != nil {
		return unknown
	}
	config := filepath.Join(stage, "nfpm.yaml")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write description of the package: %w", err)
	}
	env := []string{"SOURCE_DATE_EPOCH=" + strconv.FormatInt(s.time.Unix(), 10)}
	return goTool(ctx, env, "tool", "-modfile=tools/go.mod", "nfpm", "package", "-f", config, "-p", format, "-t", out)
}
