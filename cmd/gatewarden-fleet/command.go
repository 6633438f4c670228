package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/fleet/operator"
	"github.com/gatewarden/gatewarden/internal/wire"
)

func commandVerb(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "command", Short: "commands to gateways", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(commandNew(o), commandSend(o))
	return cmd
}

// commandNew writes the bytes that operators sign.
func commandNew(o *options) *cobra.Command {
	var device, args, reason string
	var life time.Duration
	cmd := &cobra.Command{
		Use:   "new VERB",
		Short: "write a command for operators to sign",
		Long: `Write a command as JSON. Operators sign exactly these bytes:

  gatewarden-fleet command new ping --device gw-... --reason "..." > ping.json
  ssh-keygen -Y sign -n gatewarden-command -f ~/.ssh/id_ed25519 ping.json
  gatewarden-fleet command send ping.json --device gw-...`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, verbs []string) error {
			client, err := o.client()
			if err != nil {
				return err
			}
			c, err := newCommand(cmd.Context(), client, device, verbs[0], reason, life)
			if err != nil {
				return err
			}
			if args != "" {
				c.Args = json.RawMessage(args)
			}
			if c.Fleet, err = o.fleetName(); err != nil {
				return err
			}
			return o.printJSON(c)
		},
	}
	cmd.Flags().StringVar(&device, "device", "", "the `DEVICE` that is to obey")
	cmd.Flags().StringVar(&args, "args", "", "arguments as a JSON `OBJECT`")
	cmd.Flags().StringVar(&reason, "reason", "", "`TEXT` for the records")
	cmd.Flags().DurationVar(&life, "life", time.Hour, "how long it may be carried out")
	_ = cmd.MarkFlagRequired("device") // the flag exists: it was made above
	_ = cmd.MarkFlagRequired("reason")
	return cmd
}

// newCommand makes a command with the device's present challenge, so that it holds
// where no time source has set the device's clock.
func newCommand(ctx context.Context, client *operator.Client, device, verb, reason string, life time.Duration) (wire.Command, error) {
	d, err := client.Device(ctx, device)
	if err != nil {
		return wire.Command{}, err
	}
	id := make([]byte, 8)
	if _, err := rand.Read(id); err != nil {
		return wire.Command{}, err
	}
	now := time.Now().UTC().Truncate(time.Second)
	c := wire.Command{
		Version: 1, Devices: []string{device}, ID: verb + "-" + hex.EncodeToString(id), Verb: verb,
		NotBefore: now.Add(-5 * time.Minute), Expires: now.Add(life), Reason: reason,
	}
	var h wire.Health
	if json.Unmarshal(d.Health, &h) == nil && len(h.Challenge) > 0 {
		c.Challenge = map[string][]byte{device: h.Challenge}
	}
	return c, nil
}

func commandSend(o *options) *cobra.Command {
	var device string
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "send FILE [SIGNATURE...]",
		Short: "hand in a signed command and wait for the receipt",
		Long: `Hand in a command with its signatures (FILE.sig if none is named) and wait for
the gateway's receipt.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := o.client()
			if err != nil {
				return err
			}
			e, err := readEnvelope(args[0], args[1:])
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			hash, err := client.Command(ctx, device, e)
			if err != nil {
				return err
			}
			r, err := awaitReceipt(ctx, client, device, hash)
			if err != nil {
				return err
			}
			if o.json {
				return o.printJSON(r)
			}
			fmt.Fprintf(o.stdout, "%s: %s\n", r.Outcome, r.Text)
			if r.Outcome != wire.OutcomeDone {
				return errors.New("the command was not done")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&device, "device", "", "the `DEVICE` to send it to")
	cmd.Flags().DurationVar(&wait, "wait", time.Minute, "how long to wait for the receipt")
	_ = cmd.MarkFlagRequired("device") // the flag exists: it was made above
	return cmd
}

func readEnvelope(path string, signatures []string) (wire.Envelope, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return wire.Envelope{}, fmt.Errorf("read command: %w", err)
	}
	if len(signatures) == 0 {
		signatures = []string{path + ".sig"}
	}
	e := wire.Envelope{Command: raw}
	for _, name := range signatures {
		signature, err := os.ReadFile(name)
		if err != nil {
			return wire.Envelope{}, fmt.Errorf("read signature: %w\nhint: ssh-keygen -Y sign -n %s -f KEY %s makes it", err, wire.CommandNamespace, path)
		}
		e.Signatures = append(e.Signatures, string(signature))
	}
	return e, nil
}

// awaitReceipt waits for an answer to the envelope that is not older than it.
func awaitReceipt(ctx context.Context, client *operator.Client, device, hash string) (operator.Receipt, error) {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		d, err := client.Device(ctx, device)
		if err != nil {
			return operator.Receipt{}, err
		}
		for _, c := range d.Commands {
			if c.Envelope == hash && !c.Pending && len(c.Receipts) > 0 {
				return c.Receipts[len(c.Receipts)-1], nil
			}
		}
		select {
		case <-ctx.Done():
			return operator.Receipt{}, fmt.Errorf("no answer yet; the command waits for %s to connect: `gatewarden-fleet devices show %s` tells more", device, device)
		case <-ticker.C:
		}
	}
}
