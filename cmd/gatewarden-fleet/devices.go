package main

import (
	"fmt"
	"net/url"
	"os/user"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/fleet/operator"
)

func devicesVerb(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "devices", Short: "the gateways of the fleet", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(devicesList(o), devicesShow(o), devicesEvidence(o), decide(o, "approve"), decide(o, "revoke"))
	return cmd
}

func devicesList(o *options) *cobra.Command {
	filters := map[string]*string{"state": new(string), "grade": new(string), "model": new(string), "search": new(string)}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list gateways",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := o.client()
			if err != nil {
				return err
			}
			query := url.Values{}
			for key, value := range filters {
				if *value != "" {
					query.Set(key, *value)
				}
			}
			list, err := client.Devices(cmd.Context(), query)
			if err != nil {
				return err
			}
			if o.json {
				return o.printJSON(list)
			}
			w := tabwriter.NewWriter(o.stdout, 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "DEVICE\tSTATE\tVERDICT\tMODEL\tHOST\tVERSION\tLAST SEEN")
			for _, d := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", d.ID, d.State, d.Grade, d.Model, d.Hostname, d.Software, d.LastSeen.UTC().Format(time.DateTime))
			}
			return w.Flush()
		},
	}
	for key, help := range map[string]string{
		"state": "only `STATE`: pending, active, quarantined, revoked", "grade": "only `GRADE`: trusted, degraded, untrusted",
		"model": "only this `MODEL`", "search": "only ids or host names that begin with `TEXT`",
	} {
		cmd.Flags().StringVar(filters[key], key, "", help)
	}
	return cmd
}

func devicesShow(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "show DEVICE",
		Short: "show all about one gateway",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := o.client()
			if err != nil {
				return err
			}
			d, err := client.Device(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if o.json {
				return o.printJSON(d)
			}
			printDevice(o, d)
			return nil
		},
	}
}

func devicesEvidence(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "evidence DEVICE",
		Short: "print the evidence behind the last verdict, for policy test",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := o.client()
			if err != nil {
				return err
			}
			record, err := client.Evidence(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return o.printJSON(record)
		},
	}
}

func printDevice(o *options, d operator.Detail) {
	ek := "its maker is not known here"
	if d.EKVerified {
		ek = "vouched for by its maker"
	}
	fmt.Fprintf(o.stdout, "%s  %s  %s %s  agent %s\nTPM: %s\n", d.ID, d.State, d.Model, d.Hostname, d.Software, ek)
	if d.Verdict != nil {
		fmt.Fprintf(o.stdout, "\nverdict of %s (gate: %s)\n", d.Verdict.At.UTC().Format(time.DateTime), d.Verdict.Gate)
		for _, line := range d.Verdict.Explanation {
			fmt.Fprintf(o.stdout, "  %s\n", line)
		}
	}
	fmt.Fprintf(o.stdout, "\ncertificates\n")
	for _, c := range d.Certificates {
		state := "good"
		if c.Revoked != "" {
			state = "revoked: " + c.Revoked
		}
		fmt.Fprintf(o.stdout, "  %.16s  %-10s  %s  until %s  %s\n", c.Serial, c.Profile, c.Identity, c.NotAfter.UTC().Format(time.DateTime), state)
	}
	fmt.Fprintf(o.stdout, "\ncommands\n")
	for _, c := range d.Commands {
		fmt.Fprintf(o.stdout, "  %s  %-10s  %s", c.Created.UTC().Format(time.DateTime), c.Verb, c.ID)
		if len(c.Receipts) == 0 {
			fmt.Fprint(o.stdout, "  no answer yet")
		}
		for _, r := range c.Receipts {
			fmt.Fprintf(o.stdout, "\n    %s: %s", r.Outcome, r.Text)
		}
		fmt.Fprintln(o.stdout)
	}
}

// decide makes the verbs approve and revoke.
func decide(o *options, verb string) *cobra.Command {
	var d operator.Decision
	cmd := &cobra.Command{
		Use:   verb + " DEVICE",
		Short: map[string]string{"approve": "let a waiting gateway in and freeze its firmware values", "revoke": "shut a gateway out"}[verb],
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := o.client()
			if err != nil {
				return err
			}
			if verb == "approve" {
				err = client.Approve(cmd.Context(), args[0], d)
			} else {
				err = client.Revoke(cmd.Context(), args[0], d)
			}
			if err == nil {
				fmt.Fprintf(o.stdout, "%s: %sd\n", args[0], verb)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&d.By, "by", currentUser(), "`NAME` of the person who decides")
	cmd.Flags().StringVar(&d.Reason, "reason", "", "`TEXT` for the records")
	if verb == "approve" {
		cmd.Flags().BoolVar(&d.AcceptEK, "accept-ek", false, "approve although no known TPM maker vouches for its EK")
	}
	return cmd
}

func currentUser() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}
