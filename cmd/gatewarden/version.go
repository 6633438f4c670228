package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/agent"
)

// Set by the linker (Makefile).
var (
	version   = "0.0.0-dev"
	commit    = "unknown"
	buildTime = "" // RFC 3339: the time of the commit
)

// sourceTime stands in where neither the linker nor the Go tool recorded a time:
// the sources are not older.
const sourceTime = "2026-11-01T00:00:00Z"

// build is what the agent is told of its binary. Without a linked time it is the
// commit's, as the Go tool recorded it.
func build() agent.Build {
	b := agent.Build{Version: version}
	stamp := buildTime
	if info, ok := debug.ReadBuildInfo(); ok && stamp == "" {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.time" {
				stamp = setting.Value
			}
		}
	}
	if stamp == "" {
		stamp = sourceTime
	}
	if t, err := time.Parse(time.RFC3339, stamp); err == nil {
		b.Time = t
	}
	return b
}

func versionVerb(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print version, commit, build time and platform",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b := build()
			if o.json {
				return o.printJSON(map[string]string{
					"version": b.Version, "commit": commit, "built": b.Time.Format(time.RFC3339), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH,
				})
			}
			fmt.Fprintf(o.stdout, "gatewarden %s (commit %s, %s, %s/%s, sources of %s)\n", b.Version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH, b.Time.Format("2006-01-02"))
			return nil
		},
	}
}
