package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// unit is a service that is installed, and the most that systemd-analyze may find
// exposed in it, from 0 to 10. What remains is explained in the unit.
type unit struct {
	file string
	most float64
}

func units() []unit {
	return []unit{
		{"packaging/gatewarden/gatewarden.service", 1.5},
		{"packaging/gatewarden/gatewarden-helper.service", 1.5},
		{"packaging/gatewarden/gatewarden-credentials.service", 0.3},
		{"packaging/gatewarden-fleet/gatewarden-fleet.service", 1.2},
	}
}

// checkUnits has systemd score the units, which must be as they are installed: byte
// for byte these files.
func checkUnits(ctx context.Context, root string) (string, error) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		return "not run: systemd-analyze is not installed (make setup)", nil
	}
	var notes, bad []string
	for _, u := range units() {
		if !exists(root, u.file) {
			bad = append(bad, u.file+": does not exist")
			continue
		}
		exposure, faults, err := analyze(ctx, root, u.file)
		if err != nil {
			return "", err
		}
		bad = append(bad, faults...)
		if exposure > u.most {
			bad = append(bad, fmt.Sprintf("%s: exposure is %.1f, at most %.1f is allowed; systemd-analyze security --offline=true %[1]s shows why", u.file, exposure, u.most))
		}
		notes = append(notes, fmt.Sprintf("%s %.1f", u.file[strings.LastIndex(u.file, "/")+1:], exposure))
	}
	return strings.Join(notes, ", "), faults(bad)
}

// analyze returns the exposure of a unit, and a sentence for each key that systemd
// does not know: it would go without.
func analyze(ctx context.Context, root, file string) (exposure float64, unknown []string, err error) {
	cmd := exec.CommandContext(ctx, "systemd-analyze", "security", "--offline=true", "--no-pager", file)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, nil, fmt.Errorf("analyze %s: %w: %s", file, err, &stderr)
	}
	for line := range strings.Lines(stderr.String()) {
		if strings.Contains(line, "Unknown key") || strings.Contains(line, "Failed to parse") {
			unknown = append(unknown, strings.TrimSpace(line))
		}
	}
	m := regexp.MustCompile(`exposure level for \S+: (\d+\.\d)`).FindSubmatch(out)
	if m == nil {
		return 0, nil, fmt.Errorf("analyze %s: there is no exposure level in what systemd-analyze printed", file)
	}
	exposure, err = strconv.ParseFloat(string(m[1]), 64)
	return exposure, unknown, err
}
