package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
)

// metrics runs one benchmark of a package and returns what it reports in each unit.
func metrics(ctx context.Context, pkg, benchmark string, rounds int, units ...string) ([]float64, error) {
	out, err := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^"+benchmark+"$", "-benchtime", fmt.Sprintf("%dx", rounds), pkg).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("run %s: %w: %s", benchmark, err, out)
	}
	found := make([]float64, len(units))
	for i, unit := range units {
		match := regexp.MustCompile(`([0-9.]+) ` + regexp.QuoteMeta(unit)).FindSubmatch(out)
		if match == nil {
			return nil, fmt.Errorf("%s reports no %s:\n%s", benchmark, unit, out)
		}
		if found[i], err = strconv.ParseFloat(string(match[1]), 64); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// casyncTest holds lines 8 and 9 of the budget as counts.
const casyncTest = "TestBytesFetchedForTwoPercentAndForNothing"

// logged runs one test and returns the numbers that pattern takes from its log.
func logged(ctx context.Context, pkg, test, pattern string) ([]float64, error) {
	out, err := exec.CommandContext(ctx, "go", "test", "-v", "-run", "^"+test+"$", pkg).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("run %s: %w: %s", test, err, out)
	}
	match := regexp.MustCompile(pattern).FindSubmatch(out)
	if match == nil {
		return nil, fmt.Errorf("%s does not say %s:\n%s", test, pattern, out)
	}
	var numbers []float64
	for _, text := range match[1:] {
		n, err := strconv.ParseFloat(string(text), 64)
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}

// smallUpdate and noUpdate are judged by the test itself.
func smallUpdate(ctx context.Context) (figure, error) {
	n, err := logged(ctx, "./update/chunk/plan", casyncTest, `2 %: (\d+) bytes \(([0-9.]+) % of the image\), casync (\d+)`)
	if err != nil {
		return figure{}, err
	}
	return figure{text: fmt.Sprintf("%.2f %% of the image; %.0f bytes, casync %.0f", n[1], n[0], n[2])}, nil
}

func noUpdate(ctx context.Context) (figure, error) {
	n, err := logged(ctx, "./update/chunk/plan", casyncTest, `nothing: (\d+) bytes`)
	if err != nil {
		return figure{}, err
	}
	return figure{text: fmt.Sprintf("%.1f KB", n[0]/1000)}, nil
}

const (
	maxAppraisal = 1.5
	maxCrowding  = 1.15
	maxIMAEntry  = 1000 // ns
)

func appraisal(ctx context.Context) (figure, error) {
	x, err := metrics(ctx, "./attest", "BenchmarkVerify", 2000, "x-raw-ecdsa", "x-go-attestation", "x-go-tpm-tools")
	if err != nil {
		return figure{}, err
	}
	text := fmt.Sprintf("%.2fx without persistence; quote and replay alone: go-attestation %.2fx, go-tpm-tools %.2fx", x[0], x[1], x[2])
	return figure{text: text, over: x[0] > maxAppraisal}, nil
}

func largeFleet(ctx context.Context) (figure, error) {
	x, err := metrics(ctx, "./fleet/verifier", "BenchmarkAttestationInALargeFleet", 500, "x-of-1k")
	if err != nil {
		return figure{}, err
	}
	return figure{text: fmt.Sprintf("%.2fx, with persistence", x[0]), over: x[0] > maxCrowding}, nil
}

func imaEntry(ctx context.Context) (figure, error) {
	ns, err := metrics(ctx, "./attest", "BenchmarkIMA", 2000, "ns/entry")
	if err != nil {
		return figure{}, err
	}
	return figure{text: fmt.Sprintf("%.2f us a new entry after a million, with allow-list; 243 B kept a device", ns[0]/1000), over: ns[0] > maxIMAEntry}, nil
}
