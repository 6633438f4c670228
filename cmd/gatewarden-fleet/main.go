//go:build !docgen

// Command gatewarden-fleet is the fleet's side: `serve` is the server, `demo` a
// whole fleet on one machine, the other verbs are for operators.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
