package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/internal/cli"
	"github.com/gatewarden/gatewarden/tpm/seal"
)

func sealVerb(o *options) *cobra.Command {
	var s local.Sealing
	var file, key string
	cmd := &cobra.Command{
		Use:   "seal NAME",
		Short: "seal a secret to this gateway and to boots that its owner signed (root)",
		Long: `Seal what comes on standard input, up to 64 KiB, under a name. It opens on this
gateway only, in boots of releases that the owner signed for it, with the Secure Boot
state of now, and not in releases of an epoch that was left behind. Updates take it
along by themselves.

With --unit that systemd unit gets it by LoadCredential=, see gatewarden-credentials(1).
With --until ready it opens until systemd-pcrphase.service has measured that the boot
is ready, and not after: for units that are ordered before that. With --recovery-key
somebody who has the private key can have it opened in any boot, on this gateway.

Sealing protects against altered boots, not against somebody who controls the running
system. The root file system is covered only where the kernel command line holds its
dm-verity root hash: seal warns where it does not.`,
		Example: "  openssl rand 32 | gatewarden seal disk-key\n  gatewarden seal wg-key --unit wireguard.service --file key",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if s.Data, err = readSecret(cmd.InOrStdin(), file); err != nil {
				return err
			}
			if key != "" {
				if s.RecoveryKey, err = readPublicKey(key); err != nil {
					return err
				}
			}
			socket, err := o.socketPath()
			if err != nil {
				return err
			}
			warnings, err := local.Seal(cmd.Context(), socket, args[0], s)
			if err != nil {
				return err
			}
			for _, w := range warnings {
				fmt.Fprintln(o.stderr, "warning:", w)
			}
			return o.print(map[string]any{"name": args[0], "warnings": warnings}, func(w io.Writer) { fmt.Fprintf(w, "sealed %s\n", args[0]) })
		},
	}
	cmd.Flags().StringVar(&s.Unit, "unit", "", "the systemd `UNIT` that may have it")
	cmd.Flags().StringVar(&s.Until, "until", "", "shut it at this `PHASE` of the boot: ready")
	cmd.Flags().StringVar(&key, "recovery-key", "", "public key in this `FILE` that can open it, PEM, P-256 or RSA 2048")
	cmd.Flags().StringVar(&file, "file", "", "read it from this `FILE` instead of standard input")
	return cmd
}

// readSecret takes one byte more than allowed, so that a longer one is refused and
// not cut.
func readSecret(in io.Reader, file string) ([]byte, error) {
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("read secret: %w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, seal.MaxSecret+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read secret: %w", err)
	case len(data) == 0 || len(data) > seal.MaxSecret:
		return nil, cli.NewUsageError(fmt.Errorf("the secret must have 1 to %d bytes", seal.MaxSecret))
	}
	return data, nil
}

func unsealVerb(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "unseal NAME",
		Short: "write a sealed secret to standard output (root)",
		Long: `Open a secret and write it to standard output. If this boot may not have it, the
error names what differs; nothing is written then.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			socket, err := o.socketPath()
			if err != nil {
				return err
			}
			data, err := local.Unseal(cmd.Context(), socket, args[0])
			if err != nil {
				return err
			}
			return o.printSecret(args[0], data)
		},
	}
}

func (o *options) printSecret(name string, data []byte) error {
	if o.json {
		return o.printJSON(map[string]any{"name": name, "data": data})
	}
	_, err := o.stdout.Write(data)
	return err
}

func secretsVerb(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "secrets", Short: "list, remove and recover sealed secrets", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(&cobra.Command{
		Use: "list", Short: "list sealed secrets without opening them", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			socket, err := o.socketPath()
			if err != nil {
				return err
			}
			list, err := local.ListSecrets(cmd.Context(), socket)
			if err != nil {
				return err
			}
			return o.print(list, func(w io.Writer) { printSecrets(w, list) })
		},
	}, rmVerb(o), recoverVerb(o))
	return cmd
}

func printSecrets(w io.Writer, list []local.Secret) {
	if len(list) == 0 {
		fmt.Fprintln(w, "nothing is sealed")
	}
	for _, s := range list {
		until := ""
		if s.Until != "" {
			until = ", until " + s.Until
		}
		fmt.Fprintf(w, "%-24s epoch %-4d %s%s\n", s.Name, s.Epoch, orElse(s.Unit, "no unit"), until)
		if s.Problem != "" {
			fmt.Fprintf(w, "  problem: %s\n", s.Problem)
		}
	}
}
