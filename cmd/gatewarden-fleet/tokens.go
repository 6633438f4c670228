package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/fleet/operator"
)

func tokensVerb(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "tokens", Short: "one-time tokens that let gateways in", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(tokensCreate(o), tokensList(o), tokensRevoke(o))
	return cmd
}

func tokensCreate(o *options) *cobra.Command {
	var ask operator.NewToken
	var life time.Duration
	cmd := &cobra.Command{
		Use:   "create",
		Short: "make a token",
		Long: `Make a token, and print it: it is told this once, the server keeps its hash alone.
The first gateway that enrols with it is approved without a person's further word;
nobody else after that. The gateway still has to prove its TPM, or with
--accept-software, where the signed policy admits gateways without, its first key.

  gatewarden-fleet tokens create --life 24h --note "site 4" --accept-firmware`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := o.client()
			if err != nil {
				return err
			}
			ask.Seconds = int64(life / time.Second)
			t, err := client.NewToken(cmd.Context(), ask)
			if err != nil {
				return err
			}
			if o.json {
				return o.printJSON(t)
			}
			fmt.Fprintln(o.stdout, t.Text)
			fmt.Fprintf(o.stderr, "token %s is good for one gateway until %s; it is not shown again\n", t.ID, t.Expires.UTC().Format(time.DateTime))
			return nil
		},
	}
	cmd.Flags().StringVar(&ask.By, "by", currentUser(), "`NAME` of the person who decides")
	cmd.Flags().StringVar(&ask.Note, "note", "", "`TEXT` for the records")
	cmd.Flags().DurationVar(&life, "life", 24*time.Hour, "how long it may be used, at most 2160h")
	cmd.Flags().BoolVar(&ask.AcceptEK, "accept-ek", false, "also for a gateway for whose EK no known TPM maker vouches")
	cmd.Flags().BoolVar(&ask.AcceptSoftware, "accept-software", false, "also for a gateway without a TPM")
	cmd.Flags().BoolVar(&ask.AcceptFirmware, "accept-firmware", false, "freeze the firmware values that the gateway shows, as an approval by hand does")
	return cmd
}

func tokensList(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list tokens and whom they let in",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := o.client()
			if err != nil {
				return err
			}
			list, err := client.Tokens(cmd.Context())
			if err != nil {
				return err
			}
			if o.json {
				return o.printJSON(list)
			}
			w := tabwriter.NewWriter(o.stdout, 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "TOKEN\tSTATE\tDEVICE\tBY\tEXPIRES\tNOTE")
			for _, t := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", t.ID, t.State, t.Device, t.By, t.Expires.UTC().Format(time.DateTime), t.Note)
			}
			return w.Flush()
		},
	}
}

func tokensRevoke(o *options) *cobra.Command {
	var d operator.Decision
	cmd := &cobra.Command{
		Use:   "revoke TOKEN",
		Short: "end a token that nobody used",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := o.client()
			if err != nil {
				return err
			}
			if err := client.RevokeToken(cmd.Context(), args[0], d); err != nil {
				return err
			}
			return o.done(args[0], "ended")
		},
	}
	cmd.Flags().StringVar(&d.By, "by", currentUser(), "`NAME` of the person who decides")
	cmd.Flags().StringVar(&d.Reason, "reason", "", "`TEXT` for the records")
	return cmd
}
