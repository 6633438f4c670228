// Command build makes the Debian and RPM packages of both programs.
//
// Its promise: the same commit and Go toolchain give the same bytes, wherever the
// source lies and whoever builds.
//
//	go run ./packaging/build                                  all of them, into dist/
//	go run ./packaging/build -arch amd64 -format deb -out DIR two of them, quickly
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("build", flag.ContinueOnError)
	arch := flags.String("arch", "amd64,arm64,armhf,riscv64", "architectures, by Debian's names")
	format := flags.String("format", "deb,rpm", "kinds of package")
	out := flags.String("out", "dist", "folder of the packages")
	version := flags.String("version", "", "what the programs call their version; by default what git describe says")
	linted := flags.Bool("lint", false, "have lintian and rpmlint look at them")
	if err := flags.Parse(args); err != nil {
		return err
	}
	targets, err := chooseTargets(strings.Split(*arch, ","))
	if err != nil {
		return err
	}
	s, err := readSource(ctx)
	if err != nil {
		return err
	}
	if *version != "" {
		s.described = *version
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return fmt.Errorf("make folder of the packages: %w", err)
	}
	for _, program := range []string{"gatewarden", "gatewarden-fleet"} {
		if err := buildProgram(ctx, s, program, targets, strings.Split(*format, ","), *out, stdout); err != nil {
			return fmt.Errorf("%s: %w", program, err)
		}
	}
	if *linted {
		return lint(ctx, *out, stdout)
	}
	return nil
}
