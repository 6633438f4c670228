package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/agent/health"
	"github.com/gatewarden/gatewarden/internal/cli"
)

func healthVerb(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "health",
		Short: "show the findings of the health checks",
		Long: `Show the findings of the health checks.

Exit codes: 0 all is well, 1 the agent could not be asked, 3 warning or unknown,
4 critical.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.ask(cmd.Context(), false)
			if err != nil {
				return err
			}
			if o.json {
				err = o.printJSON(s.Health)
			} else {
				for _, f := range s.Health.Findings {
					fmt.Fprintf(o.stdout, "%-9s %-12s %s (since %s)\n", f.Status, f.Check, f.Summary, clockTime(f.Since))
				}
				fmt.Fprintf(o.stdout, "overall   %s\n", s.Health.Grade)
			}
			if err != nil {
				return err
			}
			return healthExit(s.Health.Grade)
		},
	}
}

func healthExit(grade string) error {
	switch grade {
	case health.OK:
		return nil
	case health.Critical:
		return cli.Exit(exitCritical)
	}
	return cli.Exit(exitWarning)
}
