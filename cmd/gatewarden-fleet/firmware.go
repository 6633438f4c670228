package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/fleet/operator"
)

const hashShown = 16 // characters of a firmware set's hash that are enough to name it

func firmwareVerb(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "firmware", Short: "firmware that gateways show and nobody approved", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(firmwareList(o), firmwareApprove(o))
	return cmd
}

func firmwareList(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list firmware that waits for approval, with how many gateways of the model show it",
		Long: `List firmware that waits for approval, the most frequent first. Counted are
gateways in service, by what their last quotes proved; those whose TPM no maker
vouches for are counted apart.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := o.client()
			if err != nil {
				return err
			}
			list, err := client.Firmware(cmd.Context())
			if err != nil {
				return err
			}
			if o.json {
				return o.printJSON(list)
			}
			if len(list) == 0 {
				fmt.Fprintln(o.stdout, "No firmware waits for approval.")
			}
			for _, f := range list {
				fmt.Fprintf(o.stdout, "%.*s  %s\n  %s\n  %s\n  first seen %s on %s; %d measurements\n", hashShown, f.Hash, f.Model, f.Share(), f.Text,
					f.First.UTC().Format(time.DateTime), f.FirstDevice, len(f.Measurements))
			}
			return nil
		},
	}
}

func firmwareApprove(o *options) *cobra.Command {
	var d operator.FirmwareDecision
	cmd := &cobra.Command{
		Use:   "approve SET",
		Short: "make proposed firmware good for its model",
		Long: `Make proposed firmware good for its model. SET is the beginning of its hash, as
firmware list prints it. Every gateway of the model that shows this firmware is
trusted from its next attestation on.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := o.client()
			if err != nil {
				return err
			}
			list, err := client.Firmware(cmd.Context())
			if err != nil {
				return err
			}
			chosen, err := chooseFirmware(list, args[0], d.Model)
			if err != nil {
				return err
			}
			d.Model, d.Hash = chosen.Model, chosen.Hash
			if err := client.ApproveFirmware(cmd.Context(), d); err != nil {
				return err
			}
			fmt.Fprintf(o.stdout, "%s: approved for %s. %s\n", d.Name, d.Model, chosen.Share())
			return nil
		},
	}
	cmd.Flags().StringVar(&d.By, "by", currentUser(), "`NAME` of the person who decides")
	cmd.Flags().StringVar(&d.Name, "name", "", "`TEXT` by which verdicts call this firmware, such as its version")
	cmd.Flags().StringVar(&d.Model, "model", "", "only for this `MODEL`, where several show the same firmware")
	return cmd
}

// chooseFirmware finds the one proposal whose hash begins so.
func chooseFirmware(list []operator.Firmware, begins, model string) (operator.Firmware, error) {
	var found []operator.Firmware
	for _, f := range list {
		if strings.HasPrefix(f.Hash, begins) && (model == "" || f.Model == model) {
			found = append(found, f)
		}
	}
	switch {
	case begins == "" || len(found) == 0:
		return operator.Firmware{}, fmt.Errorf("no firmware that waits for approval begins with %q\nhint: gatewarden-fleet firmware list shows what does", begins)
	case len(found) > 1:
		return operator.Firmware{}, errors.New("several sets begin so, or several models show it\nhint: give more of the hash, or --model")
	}
	return found[0], nil
}
