//go:build docgen

package main

import (
	"fmt"
	"io"
	"os"

	"github.com/gatewarden/gatewarden/internal/manual"
)

// With the tag docgen the program writes its man pages and completions into the
// folder that its one argument names (packaging/build).
func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run -tags docgen . FOLDER")
		os.Exit(2)
	}
	if err := manual.Write(newRoot(io.Discard, io.Discard), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
