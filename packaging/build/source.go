package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// source is what is packaged. All bytes of a package follow from it and from the
// toolchain.
type source struct {
	described string // git describe: what the programs call their version
	commit    string
	time      time.Time // of the commit; in UTC
}

// readSource asks git. SOURCE_DATE_EPOCH goes before the commit's time.
func readSource(ctx context.Context) (source, error) {
	var s source
	for _, q := range []struct {
		to   *string
		args []string
	}{
		{&s.described, []string{"describe", "--tags", "--always", "--dirty"}},
		{&s.commit, []string{"rev-parse", "HEAD"}},
	} {
		out, err := output(ctx, "git", q.args...)
		if err != nil {
			return source{}, err
		}
		*q.to = out
	}
	seconds := os.Getenv("SOURCE_DATE_EPOCH")
	if seconds == "" {
		var err error
		if seconds, err = output(ctx, "git", "log", "-1", "--format=%ct"); err != nil {
			return source{}, err
		}
	}
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return source{}, fmt.Errorf("read time of the source: %w", err)
	}
	s.time = time.Unix(n, 0).UTC()
	return s, nil
}

// packageVersion orders as dpkg and rpm do: candidates before their release,
// commits behind it, and commits without any tag by their time.
func (s source) packageVersion() string {
	version, dirty := strings.CutSuffix(s.described, "-dirty")
	m := regexp.MustCompile(`^v(\d+\.\d+\.\d+)(?:-(rc\d+))?(?:-(\d+)-(g[0-9a-f]+))?$`).FindStringSubmatch(version)
	if m == nil {
		version = fmt.Sprintf("0.0.0+%s.g%.7s", s.time.Format("20060102150405"), s.commit)
	} else {
		version = m[1]
		if m[2] != "" {
			version += "~" + m[2]
		}
		if m[3] != "" {
			version += "+" + m[3] + "." + m[4]
		}
	}
	if dirty {
		version += ".dirty"
	}
	return version
}

// output runs a program and returns what it printed.
func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("run %s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
