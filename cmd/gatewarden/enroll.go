package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/internal/cli"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// tokenCredential is the name of the systemd credential that holds a token.
const tokenCredential = "gatewarden.token"

func enrollVerb(o *options) *cobra.Command {
	var token string
	cmd := &cobra.Command{
		Use:   "enroll --token TOKEN|-",
		Short: "let this gateway in with a one-time token (root)",
		Long: `Give the agent a one-time enrolment token of the fleet. It shows the token at its
next attempt, at once if it waits for an operator, and forgets it when it was used or
refused; then an operator has to approve the gateway.

With - the token is read from standard input. On the command line it stands in the
list of processes for a moment, and in the shell's history for longer.`,
		Example: "  gatewarden enroll --token - < token",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if token == "-" {
				data, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), wire.MaxText+2))
				if err != nil {
					return fmt.Errorf("read token: %w", err)
				}
				token = strings.TrimSpace(string(data))
			}
			if token == "" {
				return cli.NewUsageError(errors.New("--token is needed: the token itself, or - for standard input"))
			}
			socket, err := o.socketPath()
			if err != nil {
				return err
			}
			s, err := local.EnrollToken(cmd.Context(), socket, token)
			if err != nil {
				return err
			}
			return o.print(map[string]string{"device": s.Device, "phase": s.Phase}, func(w io.Writer) {
				fmt.Fprintf(w, "%s shows the token at its next attempt\n", s.Device)
			})
		},
	}
	cmd.Flags().StringVar(&token, "token", "", "the `TOKEN`, or - for standard input")
	return cmd
}

// credentialToken is the token that the service manager hands to the agent, "" if
// it has none.
func credentialToken() string {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return ""
	}
	data, err := os.ReadFile(filepath.Join(dir, tokenCredential))
	if err != nil || len(data) > wire.MaxText {
		return ""
	}
	return strings.TrimSpace(string(data))
}
