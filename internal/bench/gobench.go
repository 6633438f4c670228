package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
)

// metric runs one benchmark of a package and returns the metric that it reports.
func metric(ctx context.Context, pkg, benchmark, unit string) (float64, error) {
	out, err := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^"+benchmark+"$", "-benchtime", "2000x", pkg).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("run %s: %w: %s", benchmark, err, out)
	}
	match := regexp.MustCompile(`([0-9.]+) ` + regexp.QuoteMeta(unit)).FindSubmatch(out)
	if match == nil {
		return 0, fmt.Errorf("%s reports no %s:\n%s", benchmark, unit, out)
	}
	return strconv.ParseFloat(string(match[1]), 64)
}

const (
	maxAppraisal = 1.5
	maxIMAEntry  = 1000 // ns
)

func appraisal(ctx context.Context) (figure, error) {
	x, err := metric(ctx, "./attest", "BenchmarkVerify", "x-raw-ecdsa")
	return figure{text: fmt.Sprintf("%.2fx without persistence", x), over: x > maxAppraisal}, err
}

func imaEntry(ctx context.Context) (figure, error) {
	ns, err := metric(ctx, "./attest", "BenchmarkIMA", "ns/entry")
	return figure{text: fmt.Sprintf("%.2f us an entry; the rest is not built", ns/1000), over: ns > maxIMAEntry}, err
}
