package main

import (
	"cmp"
	"os"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/agent"
	"github.com/gatewarden/gatewarden/tpm"
)

func agentVerb(o *options) *cobra.Command {
	var verbose bool
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "run the agent (systemd does this)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			agent.BeFrugal()
			s, err := o.settings()
			if err != nil {
				return err
			}
			if s.TPMAuth, err = tpm.ReadAuth(os.Getenv("CREDENTIALS_DIRECTORY")); err != nil {
				return err
			}
			s.Identity.Token = cmp.Or(s.Identity.Token, credentialToken())
			log := o.logger(verbose)
			restrict(s, "/etc/resolv.conf", log)
			a, err := agent.New(cmd.Context(), s, build(), log)
			if err != nil {
				return err
			}
			return a.Run(cmd.Context())
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log more")
	return cmd
}
