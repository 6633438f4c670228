package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/agent/identity"
	"github.com/gatewarden/gatewarden/agent/local"
)

func certVerb(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "cert", Short: "the operational certificate", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(&cobra.Command{
		Use:   "show",
		Short: "show the certificate in use, its life and why it has that one",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.ask(cmd.Context(), false)
			if err != nil {
				return err
			}
			return o.printCertificate(s)
		},
	}, &cobra.Command{
		Use:   "renew",
		Short: "renew key and certificate now (root)",
		Long: `Have the agent attest, make a new key and get a certificate for it. The one in
use stays until the new one is proven; if that does not work, nothing changes. The
agent does this by itself when two thirds of the certificate's life are over.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			socket, err := o.socketPath()
			if err != nil {
				return err
			}
			s, err := local.RenewCertificate(cmd.Context(), socket)
			if err != nil {
				return err
			}
			return o.printCertificate(s)
		},
	}, &cobra.Command{
		Use:   "history",
		Short: "list the certificates that this gateway was issued, and why",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			socket, err := o.socketPath()
			if err != nil {
				return err
			}
			list, err := local.CertificateHistory(cmd.Context(), socket)
			if err != nil {
				return err
			}
			return o.print(list, func(w io.Writer) { printCertificates(w, list) })
		},
	})
	return cmd
}

func (o *options) printCertificate(s local.Status) error {
	c := s.Certificate
	if c == nil {
		return errors.New("there is no certificate yet: " + s.Phase)
	}
	return o.print(c, func(w io.Writer) {
		for _, row := range [][2]string{
			{"subject", c.Identity}, {"serial", c.Serial}, {"issuer", c.Issuer}, {"valid from", clockTime(c.NotBefore)},
			{"valid until", clockTime(c.NotAfter)}, {"renewed from", clockTime(c.RenewAt)}, {"key", "SHA-256 " + c.SPKI + choose(s.SoftwareKeys, ", in a file: software keys", ", in the TPM")},
			{"life", life(string(c.Gate), c.Reason)}, {"asked for", orElse(c.Why, "not known any more")},
		} {
			fmt.Fprintf(w, "%-13s %s\n", row[0], row[1])
		}
	})
}

func life(gate, reason string) string {
	if gate == "" {
		return "not known any more"
	}
	return gate + ", because " + orElse(reason, "of the fleet's policy")
}

func printCertificates(w io.Writer, list []identity.Record) {
	if len(list) == 0 {
		fmt.Fprintln(w, "none is known")
	}
	for _, r := range list {
		fmt.Fprintf(w, "%s  %-32.32s %s until %s\n    %s\n    asked for: %s\n", clockTime(r.Obtained), r.Serial, r.Identity, clockTime(r.NotAfter),
			life(string(r.Gate), r.Reason), strings.ReplaceAll(r.Why, "\n", "; "))
	}
}
