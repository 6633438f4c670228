// Command bench prints what Gatewarden costs beside what it may cost: every line
// of the budget, then the benchmarks of all packages.
//
// Its promise: a line whose part does not exist yet says "not built"; a figure
// above its budget makes the exit code 1; a figure that is printed was measured
// in this run.
//
//	go run ./internal/bench            the budget's lines
//	go run ./internal/bench -go        and the benchmarks
//	go run ./internal/bench 2 11       only these lines
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 1 && args[0] == growthChild {
		return runGrowth(ctx, out)
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	benchmarks := flags.Bool("go", false, "run the packages' own benchmarks too")
	if err := flags.Parse(args); err != nil {
		return err
	}
	chosen, err := choose(flags.Args())
	if err != nil {
		return err
	}
	err = table(ctx, chosen, out)
	if *benchmarks {
		err = errors.Join(err, goBenchmarks(ctx, out))
	}
	return err
}

func choose(numbers []string) ([]line, error) {
	if len(numbers) == 0 {
		return budget(), nil
	}
	var chosen []line
	for _, text := range numbers {
		n, err := strconv.Atoi(text)
		i := slices.IndexFunc(budget(), func(l line) bool { return l.number == n })
		if err != nil || i < 0 {
			return nil, fmt.Errorf("the budget has no line %q", text)
		}
		chosen = append(chosen, budget()[i])
	}
	return chosen, nil
}

// table measures and prints chosen, one row each. It goes on after a fault.
func table(ctx context.Context, chosen []line, out io.Writer) error {
	var over []string
	for _, l := range chosen {
		figure, mark := "not built", "-"
		if l.measure != nil {
			f, err := l.measure(ctx)
			switch {
			case err != nil:
				figure, mark = err.Error(), "ERROR"
			case f.notBuilt:
				figure = "not built: " + f.text
			case f.over:
				figure, mark = f.text, "OVER"
			default:
				figure, mark = f.text, "ok"
			}
			if mark == "OVER" || mark == "ERROR" {
				over = append(over, strconv.Itoa(l.number))
			}
		}
		fmt.Fprintf(out, "%2d  %-5s  %-48s %-40s budget: %s\n", l.number, mark, l.what, figure, l.limit)
	}
	if len(over) > 0 {
		return fmt.Errorf("over budget or not measurable: line %s", strings.Join(over, ", "))
	}
	return nil
}

// goBenchmarks prints the result lines of go test -bench. A fixed count keeps
// its time bounded; the ratios and counts that they report don't depend on it.
func goBenchmarks(ctx context.Context, out io.Writer) error {
	fmt.Fprintln(out, "\nBenchmarks:")
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", ".", "-benchtime", "200x", "./...")
	text, err := cmd.CombinedOutput()
	pkg := ""
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		row := lines.Text()
		if name, ok := strings.CutPrefix(row, "pkg: "); ok {
			pkg = name
		}
		if strings.HasPrefix(row, "Benchmark") {
			fmt.Fprintf(out, "  %s %s\n", pkg, row)
		}
	}
	if err != nil {
		return fmt.Errorf("run benchmarks: %w\n%s", err, text)
	}
	return nil
}
