package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/cli"
)

func attestVerb(o *options) *cobra.Command {
	var fresh bool
	cmd := &cobra.Command{
		Use:   "attest",
		Short: "show how the fleet judged this boot, and why",
		Long: `Show how the fleet judged this boot, and why. With --now the TPM signs a new
quote and the fleet judges it first.

Exit codes: 0 trusted, 1 the agent or the fleet could not be asked, 3 degraded,
4 untrusted, 5 never judged.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.ask(cmd.Context(), fresh)
			if err != nil {
				return err
			}
			v := s.Verdict
			switch {
			case o.json:
				if err := o.printJSON(v); err != nil {
					return err
				}
			case v == nil:
				fmt.Fprintln(o.stdout, "the fleet has not judged this device yet")
			default:
				for _, line := range v.Explanation {
					fmt.Fprintln(o.stdout, line)
				}
				fmt.Fprintf(o.stdout, "judged %s; the gate allows: %s\n", clockTime(v.Issued), v.Gate)
			}
			if v == nil {
				return cli.Exit(exitNoVerdict)
			}
			return gradeExit(attest.Grade(v.Grade))
		},
	}
	cmd.AddCommand(attestLog(o))
	cmd.Flags().BoolVar(&fresh, "now", false, "ask for a fresh verdict first")
	return cmd
}

func gradeExit(grade attest.Grade) error {
	switch grade {
	case attest.Trusted:
		return nil
	case attest.Degraded:
		return cli.Exit(exitWarning)
	}
	return cli.Exit(exitCritical)
}
