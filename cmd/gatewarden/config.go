package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func configVerb(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "the agent's configuration", Args: cobra.NoArgs,
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
