package main

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/fleet/operator"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/fleet/verifier"
)

func allowVerb(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "allow", Short: "gateways that are let in before they come", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(
		allowChange(o, "add", "let a gateway in as soon as it comes", `Put keys on the allow-list. A gateway whose TPM holds one of them is approved the
first time that it enrols; each entry does so once.

  gatewarden-fleet allow add --certificate ek.der
  gatewarden-fleet allow add --ek 5d41402a...            # SHA-256 of the key's SubjectPublicKeyInfo
  gatewarden-fleet allow add --serial 11:22:33           # of an EK certificate whose maker is in ek_roots
  gatewarden-fleet allow add --iak 0cc175b9...           # likewise of a machine's attestation key, certified by a maker there`, (*operator.Client).Allow),
		allowList(o),
		allowChange(o, "remove", "take entries off the list", "", (*operator.Client).Disallow))
	return cmd
}

// allowing are the flags that name keys.
type allowing struct{ hashes, serials, certificates, iaks []string }

func allowChange(o *options, verb, short, long string, do func(*operator.Client, context.Context, operator.Allowed) error) *cobra.Command {
	var which allowing
	var entry operator.Allowed
	cmd := &cobra.Command{
		Use:   verb,
		Short: short,
		Long:  long,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := o.client()
			if err != nil {
				return err
			}
			entries, err := which.entries(entry)
			if err != nil {
				return err
			}
			for _, e := range entries {
				if err := do(client, cmd.Context(), e); err != nil {
					return fmt.Errorf("%s %s: %w", e.Kind, e.Value, err)
				}
			}
			return o.done(fmt.Sprintf("%d entries", len(entries)), map[string]string{"add": "added", "remove": "removed"}[verb])
		},
	}
	cmd.Flags().StringArrayVar(&which.hashes, "ek", nil, "`HASH` of an EK: SHA-256 (hex) of its SubjectPublicKeyInfo; may be repeated")
	cmd.Flags().StringArrayVar(&which.serials, "serial", nil, "`SERIAL` number (hex) of an EK certificate; may be repeated")
	cmd.Flags().StringArrayVar(&which.certificates, "certificate", nil, "`FILE` with an EK certificate in DER or PEM, for the hash of its key; may be repeated")
	cmd.Flags().StringArrayVar(&which.iaks, "iak", nil, "`HASH` of a machine's attestation key: SHA-256 (hex) of its SubjectPublicKeyInfo; may be repeated")
	cmd.Flags().StringVar(&entry.By, "by", currentUser(), "`NAME` of the person who decides")
	if verb == "add" {
		cmd.Flags().StringVar(&entry.Note, "note", "", "`TEXT` for the records")
		cmd.Flags().BoolVar(&entry.AcceptFirmware, "accept-firmware", false, "freeze the firmware values that the gateway shows, as an approval by hand does")
	}
	return cmd
}

// entries are what the flags name, each as an entry like base.
func (a *allowing) entries(base operator.Allowed) ([]operator.Allowed, error) {
	var all []operator.Allowed
	add := func(kind, value string) {
		base.Kind, base.Value = kind, value
		all = append(all, base)
	}
	for _, hash := range a.hashes {
		add(registry.AllowEK, hash)
	}
	for _, serial := range a.serials {
		add(registry.AllowSerial, serial)
	}
	for _, hash := range a.iaks {
		add(registry.AllowIAK, hash)
	}
	for _, path := range a.certificates {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read EK certificate: %w", err)
		}
		if block, _ := pem.Decode(data); block != nil {
			data = block.Bytes
		}
		hash, _, err := verifier.EKCertificate(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		add(registry.AllowEK, hash)
	}
	if len(all) == 0 {
		return nil, errors.New("nothing is named\nhint: give --ek, --serial, --certificate or --iak")
	}
	return all, nil
}

func allowList(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list entries and whom they let in",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := o.client()
			if err != nil {
				return err
			}
			list, err := client.AllowList(cmd.Context())
			if err != nil {
				return err
			}
			if o.json {
				return o.printJSON(list)
			}
			w := tabwriter.NewWriter(o.stdout, 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "KIND\tVALUE\tDEVICE\tBY\tNOTE")
			for _, e := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", e.Kind, e.Value, e.Device, e.By, e.Note)
			}
			return w.Flush()
		},
	}
}
