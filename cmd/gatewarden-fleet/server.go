package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/fleet"
)

func serveVerb(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "run the fleet server (systemd does this)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.settings()
			if err != nil {
				return err
			}
			server, err := fleet.New(s, version, o.logger())
			if err != nil {
				return err
			}
			fmt.Fprintf(o.stderr, "fleet %s: dashboard at %s\n", s.Fleet, server.DashboardURL())
			return server.Run(cmd.Context())
		},
	}
}

func initVerb(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "init",
		Short: "make the keys of a new fleet, and its CA if `ca init` did not",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			s, err := o.settings()
			if err != nil {
				return err
			}
			if err := fleet.Init(s, time.Now()); err != nil {
				return err
			}
			fmt.Fprintf(o.stdout, "fleet %s is ready in %s\n\nnext:\n"+
				"  1. move %s to a safe place off line: the server never needs it\n"+
				"  2. write operators.json (docs/protocol.md) and install it with %s\n     in /etc/gatewarden/trust on each gateway\n"+
				"  3. write %s (docs/policy.md)\n  4. gatewarden-fleet serve\n",
				s.Fleet, s.State, filepath.Join(s.State, "ca", "root.key"), filepath.Join(s.State, "trust", "fleet.json"), s.Policy)
			return nil
		},
	}
}

func configVerb(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "the server's configuration", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(&cobra.Command{
		Use:   "check [FILE]",
		Short: "check a configuration file without using it",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				o.config = args[0]
			}
			s, err := o.settings()
			if err != nil {
				return err
			}
			if o.json {
				return o.printJSON(s)
			}
			fmt.Fprintf(o.stdout, "%s is correct\n", o.config)
			return nil
		},
	})
	return cmd
}
