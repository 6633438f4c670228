package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/agent"
)

func configVerb(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "the agent's configuration", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(&cobra.Command{
		Use:   "check [FILE]",
		Short: "check a configuration file without using it",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			path := o.config
			if len(args) == 1 {
				path = args[0]
			}
			s, err := agent.LoadSettings(path)
			if err != nil {
				return err
			}
			if o.json {
				return o.printJSON(s)
			}
			fmt.Fprintf(o.stdout, "%s is correct\n", path)
			return nil
		},
	})
	return cmd
}
