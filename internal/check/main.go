// Command check runs what must hold before a change is reviewed: format, vet,
// linters, the shape of the tree, sizes, symbols, documentation.
//
// Its promise: every check is tried, each says in one line what it saw, and the
// exit code is 0 only if none found a fault.
//
//	go run ./internal/check           all of them, in the root of the module
//	go run ./internal/check links     only those named
//	go run ./internal/check -list     what there is
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "check:", err)
		os.Exit(1)
	}
}

// check is one thing that must hold in the module at root. note is what was
// seen, or why it was not looked at; err is the fault.
type check struct {
	name string
	what string
	run  func(ctx context.Context, root string) (note string, err error)
}

func all() []check {
	return []check{
		{"gofmt", "every Go file is formatted", checkFormat},
		{"vet", "go vet", checkVet},
		{"staticcheck", "staticcheck, pinned in tools/go.mod", checkStatic},
		{"tidy", "go.mod and go.sum name what is used", checkTidy},
		{"imports", "the import table holds", checkImports},
		{"style", "no init, panic, package state, global logger; each package has its promise", checkStyle},
		{"ceilings", "no file or function is too long", checkCeilings},
		{"helper", "the root helper stays small enough to be read whole", checkHelper},
		{"binary", "the device binary is small, static and without what disables dead-code removal", checkBinary},
		{"counts", "the TPM commands of enrolling, starting and attesting are within the budget", checkCounts},
		{"cross", "the device binary builds for the other architectures", checkCross},
		{"units", "the systemd units leave no more open than they say", checkUnits},
		{"links", "no dead links in the documentation", checkLinks},
		{"cited", "every test that the documentation names exists", checkCited},
		{"generated", "generated documentation is up to date", checkGenerated},
		{"govulncheck", "no known vulnerability is reachable", checkVulnerabilities},
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("check", flag.ContinueOnError)
	list := flags.Bool("list", false, "list the checks")
	root := flags.String("root", ".", "root of the module")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *list {
		for _, c := range all() {
			fmt.Fprintf(out, "%-12s %s\n", c.name, c.what)
		}
		return nil
	}
	chosen, err := choose(flags.Args())
	if err != nil {
		return err
	}
	return runAll(ctx, chosen, *root, out)
}

func choose(names []string) ([]check, error) {
	if len(names) == 0 {
		return all(), nil
	}
	var chosen []check
	for _, name := range names {
		i := slices.IndexFunc(all(), func(c check) bool { return c.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no check is named %q; -list shows them", name)
		}
		chosen = append(chosen, all()[i])
	}
	return chosen, nil
}

func runAll(ctx context.Context, chosen []check, root string, out io.Writer) error {
	var failed []string
	for _, c := range chosen {
		began := time.Now()
		note, err := c.run(ctx, root)
		mark := "ok  "
		if err != nil {
			mark = "FAIL"
			failed = append(failed, c.name)
		}
		fmt.Fprintf(out, "%s %-12s %6.1fs  %s\n", mark, c.name, time.Since(began).Seconds(), note)
		if err != nil {
			fmt.Fprintln(out, indent(err.Error()))
		}
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d of %d failed: %s", len(failed), len(chosen), strings.Join(failed, ", "))
	}
	return nil
}

func indent(text string) string {
	return "     " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n     ")
}

// faults makes an error of sentences, nil of none.
func faults(sentences []string) error {
	if len(sentences) == 0 {
		return nil
	}
	return errors.New(strings.Join(sentences, "\n"))
}
