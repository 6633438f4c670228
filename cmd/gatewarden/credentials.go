package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/agent"
	"github.com/gatewarden/gatewarden/helper"
	"github.com/gatewarden/gatewarden/tpm"
)

func credentialsVerb(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "credentials",
		Short: "give systemd units their sealed secrets (systemd does this)",
		Long: `Answer systemd's questions for credentials: a unit with

  LoadCredential=NAME:/run/gatewarden/credentials.sock

finds the secret that was sealed by "gatewarden seal NAME --unit UNIT" in
$CREDENTIALS_DIRECTORY/NAME. Only that unit gets it. If it may not be opened, the unit
does not start (exit status 243/CREDENTIALS), and "journalctl -u gatewarden-credentials"
says why. systemd starts this process through gatewarden-credentials.socket; the agent
need not run for it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			agent.BeFrugal()
			l, err := helper.Activated()
			if err == nil && l == nil {
				err = errors.New("no socket was passed: start gatewarden-credentials.socket")
			}
			if err != nil {
				return err
			}
			s, err := o.settings()
			if err != nil {
				return err
			}
			if s.TPMAuth, err = tpm.ReadAuth(os.Getenv("CREDENTIALS_DIRECTORY")); err != nil {
				return err
			}
			log := o.logger(false)
			restrictReader(s, log)
			return agent.ServeCredentials(cmd.Context(), s, l, log)
		},
	}
}
