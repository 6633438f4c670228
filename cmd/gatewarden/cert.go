package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func certVerb(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "cert", Short: "the operational certificate", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(&cobra.Command{
		Use:   "show",
		Short: "show the certificate in use",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.ask(cmd.Context(), false)
			if err != nil {
				return err
			}
			c := s.Certificate
			if c == nil {
				return errors.New("there is no certificate yet: " + s.Phase)
			}
			if o.json {
				return o.printJSON(c)
			}
			for _, row := range [][2]string{
				{"subject", c.Identity}, {"serial", c.Serial}, {"issuer", c.Issuer}, {"valid from", clockTime(c.NotBefore)},
				{"valid until", clockTime(c.NotAfter)}, {"renewed from", clockTime(c.RenewAt)}, {"key", "SHA-256 " + c.SPKI + ", in the TPM"},
			} {
				fmt.Fprintf(o.stdout, "%-13s %s\n", row[0], row[1])
			}
			return nil
		},
	})
	return cmd
}
