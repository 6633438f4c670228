package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/fleet"
	"github.com/gatewarden/gatewarden/fleet/operator"
	"github.com/gatewarden/gatewarden/internal/cli"
)

const defaultConfig = "/etc/gatewarden-fleet/fleet.toml"

// Set by the linker (Makefile).
var (
	version = "0.0.0-dev"
	commit  = "unknown"
)

// run is the whole program but for process globals.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return cli.Run(ctx, newRoot(stdout, stderr), args, stdout, stderr)
}

// options are the flags that every verb has.
type options struct {
	config string
	socket string
	json   bool
	stdout io.Writer
	stderr io.Writer
}

func newRoot(stdout, stderr io.Writer) *cobra.Command {
	o := &options{stdout: stdout, stderr: stderr}
	root := &cobra.Command{
		Use:   "gatewarden-fleet",
		Short: "server and tools of a fleet of gateways",
		Long: `gatewarden-fleet enrols gateways, judges how they booted, issues their
certificates, takes in their health and carries signed commands to them.

Exit codes: 0 done, 1 could not be done (stderr says why), 2 wrong command line.`,
	}
	root.PersistentFlags().StringVar(&o.config, "config", defaultConfig, "the server's configuration `FILE`")
	root.PersistentFlags().StringVar(&o.socket, "socket", "", "reach the server at this `SOCKET` instead of the configured one")
	root.PersistentFlags().BoolVar(&o.json, "json", false, "print JSON")
	root.AddCommand(serveVerb(o), initVerb(o), caVerb(o), demoVerb(o), devicesVerb(o), firmwareVerb(o), policyVerb(o), tokensVerb(o), allowVerb(o), commandVerb(o), releaseVerb(o), configVerb(o), verifyVerb(o), versionVerb(o))
	return root
}

// client reaches the server; a socket on the command line needs no configuration.
func (o *options) client() (*operator.Client, error) {
	if o.socket != "" {
		return operator.NewClient(o.socket), nil
	}
	s, err := o.settings()
	if err != nil {
		return nil, err
	}
	return operator.NewClient(s.Listen.Operator), nil
}

// settings reads the server's configuration.
func (o *options) settings() (fleet.Settings, error) {
	s, err := fleet.LoadSettings(o.config)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w\nhint: --config FILE names the configuration; packaging/fleet.toml is an example", err)
	}
	return s, err
}

func (o *options) printJSON(v any) error {
	enc := json.NewEncoder(o.stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func (o *options) logger() *slog.Logger { return slog.New(slog.NewTextHandler(o.stderr, nil)) }

func versionVerb(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print version and commit",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if o.json {
				return o.printJSON(map[string]string{"version": version, "commit": commit})
			}
			fmt.Fprintf(o.stdout, "gatewarden-fleet %s (commit %s)\n", version, commit)
			return nil
		},
	}
}

func (o *options) fleetName() (string, error) {
	s, err := o.settings()
	return s.Fleet, err
}
