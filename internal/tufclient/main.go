// Command tufclient lets the public conformance suite of TUF (tuf-conformance, its
// CLIENT-CLI.md) drive package tuf. It is a program for tests and ships nowhere.
//
//	tufclient --metadata-dir D init ROOT
//	tufclient --metadata-dir D --metadata-url U refresh
//	tufclient --metadata-dir D --metadata-url U --target-name T --target-base-url B --target-dir X download
//
// --target-name may be given several times. It exits with 0 or 1. In a checkout of
// the suite: pytest tuf_conformance --entrypoint PATH/tufclient.
package main

import (
	"context"
	"fmt"
	"os"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "tufclient:", err)
		os.Exit(1)
	}
}
