package main

import (
	"context"
	"fmt"
	"net/url"
	"os/user"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/operator"
	"github.com/gatewarden/gatewarden/fleet/registry"
)

func devicesVerb(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "devices", Short: "the gateways of the fleet", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(devicesList(o), devicesShow(o), devicesEvidence(o), decide(o, approval()), decide(o, revocation()), decide(o, transferral()), decide(o, decommissioning()))
	return cmd
}

func devicesList(o *options) *cobra.Command {
	filters := map[string]*string{"state": new(string), "grade": new(string), "model": new(string), "keys": new(string), "search": new(string)}
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
			list, err := allDevices(cmd.Context(), client, query)
			if err != nil {
				return err
			}
			if o.json {
				return o.printJSON(list)
			}
			w := tabwriter.NewWriter(o.stdout, 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "DEVICE\tSTATE\tVERDICT\tKEYS\tMODEL\tHOST\tVERSION\tLAST SEEN")
			for _, d := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", d.ID, d.State, d.Grade, d.Keys, d.Model, d.Hostname, d.Software, d.LastSeen.UTC().Format(time.DateTime))
			}
			return w.Flush()
		},
	}
	for key, help := range map[string]string{
		"state": "only `STATE`: pending, active, quarantined, revoked, decommissioned", "grade": "only `GRADE`: trusted, degraded, untrusted",
		"model": "only this `MODEL`", "keys": "only those whose keys are in `PLACE`: tpm, software", "search": "only ids or host names that begin with `TEXT`",
	} {
		cmd.Flags().StringVar(filters[key], key, "", help)
	}
	return cmd
}

// allDevices reads page after page.
func allDevices(ctx context.Context, client *operator.Client, query url.Values) ([]operator.Device, error) {
	all := []operator.Device{}
	for {
		page, err := client.Devices(ctx, query)
		if err != nil || len(page) == 0 {
			return all, err
		}
		all = append(all, page...)
		query.Set("after", page[len(page)-1].ID)
	}
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
	var list string
	cmd := &cobra.Command{
		Use:   "evidence DEVICE",
		Short: "print the evidence behind the last verdict, for policy test and verify",
		Long: `Print the evidence behind the last verdict, for policy test and verify.

The fleet keeps no IMA lists. With --ima, FILE is put into the evidence: a copy of
/sys/kernel/security/ima/binary_runtime_measurements of DEVICE, made since that
verdict and before a reboot. It needs no trust, since it is held against the quote.`,
		Example: "  gatewarden-fleet devices evidence gw-g275dqr2f7j5lx2n --ima binary_runtime_measurements > evidence.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := o.client()
			if err != nil {
				return err
			}
			record, err := client.Evidence(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := addIMA(record, list); err != nil {
				return err
			}
			return o.printJSON(record)
		},
	}
	cmd.Flags().StringVar(&list, "ima", "", "put the IMA list in `FILE` into the evidence")
	return cmd
}

// addIMA puts the list in a file, in any of the kernel's forms, into a record; "" is none.
func addIMA(record *attest.Recorded, path string) error {
	if path == "" {
		return nil
	}
	data, err := readInput(path)
	if err == nil {
		err = record.AddIMA(data)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func printDevice(o *options, d operator.Detail) {
	ek := "its maker is not known here"
	switch {
	case d.Keys == registry.KeysSoftware:
		ek = "none: software keys. Nothing proves what it booted or that its keys are not copied"
	case d.EKVerified:
		ek = "vouched for by its maker"
	case d.Machine != "":
		ek = "vouched for by the maker of machine " + d.Machine[:16]
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

// act is a person's decision about one gateway.
type act struct {
	verb, done, short, long string
	do                      func(*operator.Client, context.Context, string, operator.Decision) error
}

func approval() act {
	return act{"approve", "approved", "let a waiting gateway in and freeze its firmware values", `Let a waiting gateway in. The firmware values that it showed become the reference
for its model.

With --accept-revoked, bring back one that was revoked, where that was a mistake or
what led to it is mended. It proves its TPM again, gets a new certificate as the gate
allows, and needs nobody on site: within 20 minutes, or at once when its agent is
started again. What was revoked stays revoked, and its firmware is not approved by it.`, (*operator.Client).Approve}
}

func revocation() act {
	return act{"revoke", "revoked", "shut a gateway out", `Shut a gateway out: its certificates are revoked, its sessions end, commands that
wait are withdrawn, and its TPM is refused from then on. Nothing brings it back but
"devices approve --accept-revoked"; its certificates stay revoked. For a gateway
that is sold or scrapped take decommission.`, (*operator.Client).Revoke}
}

func transferral() act {
	return act{"transfer", "transferred", "hand a gateway over to its next holder", `Hand a gateway over: it keeps its id, which is its TPM's, and its records. All that
was granted to it ends, approval, certificates and sessions, and it waits for
approval like a new one. This also brings back one that was decommissioned.`, (*operator.Client).Transfer}
}

func decommissioning() act {
	return act{"decommission", "decommissioned", "take a gateway out of the fleet in good order", `Take a gateway out: its certificates are revoked, its sessions end, and it is
refused from then on, unless it is transferred. What the fleet knows of it stays.`, (*operator.Client).Decommission}
}

func decide(o *options, a act) *cobra.Command {
	var d operator.Decision
	cmd := &cobra.Command{
		Use:   a.verb + " DEVICE",
		Short: a.short,
		Long:  a.long,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := o.client()
			if err != nil {
				return err
			}
			if err := a.do(client, cmd.Context(), args[0], d); err != nil {
				return err
			}
			return o.done(args[0], a.done)
		},
	}
	cmd.Flags().StringVar(&d.By, "by", currentUser(), "`NAME` of the person who decides")
	cmd.Flags().StringVar(&d.Reason, "reason", "", "`TEXT` for the records")
	if a.verb == "approve" {
		cmd.Flags().BoolVar(&d.AcceptEK, "accept-ek", false, "approve although no known TPM maker vouches for its EK")
		cmd.Flags().BoolVar(&d.AcceptSoftware, "accept-software", false, "approve although it has no TPM")
		cmd.Flags().BoolVar(&d.AcceptRevoked, "accept-revoked", false, "bring back a gateway that was revoked; wants --reason")
	}
	return cmd
}

// done tells that something was done to what.
func (o *options) done(what, done string) error {
	if o.json {
		return o.printJSON(map[string]string{"name": what, "done": done})
	}
	fmt.Fprintf(o.stdout, "%s: %s\n", what, done)
	return nil
}

func currentUser() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}
