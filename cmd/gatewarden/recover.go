package main

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/internal/cli"
)

// maxKeyFile is what is read of a key or a signature at most, in bytes.
const maxKeyFile = 8 << 10

func rmVerb(o *options) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "rm {NAME | --all}", Short: "forget a sealed secret (root)",
		Long: `Forget a sealed secret, or with --all all of them and the chip that sealed them:
what there is to do after the TPM was cleared or replaced.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) == 1) {
				return cli.NewUsageError(errors.New("name one secret, or --all"))
			}
			socket, err := o.socketPath()
			if err != nil {
				return err
			}
			if all {
				return local.ResetSecrets(cmd.Context(), socket)
			}
			return local.RemoveSecret(cmd.Context(), socket, args[0])
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "forget every secret, and the chip that sealed them")
	return cmd
}

func recoverVerb(o *options) *cobra.Command {
	var request, signature string
	cmd := &cobra.Command{
		Use:   "recover NAME",
		Short: "open a secret by its recovery key, whatever was booted (root)",
		Long: `Open a secret that was sealed with --recovery-key, on the gateway that sealed it, in
any boot and at any epoch. In three steps: write what is to be signed, have it signed
where the private key is, and give the signature. The secret goes to standard output.
The signature opens this file of the secret for ever, and no other: seal anew then.`,
		Example: `  gatewarden secrets recover disk-key --request disk-key.digest
  openssl pkeyutl -sign -inkey recovery.pem -in disk-key.digest -out disk-key.sig -pkeyopt digest:sha256
  gatewarden secrets recover disk-key --signature disk-key.sig | gatewarden seal disk-key`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (request == "") == (signature == "") {
				return cli.NewUsageError(errors.New("give --request FILE, or --signature FILE"))
			}
			socket, err := o.socketPath()
			if err != nil {
				return err
			}
			if request != "" {
				digest, err := local.RecoveryDigest(cmd.Context(), socket, args[0])
				if err != nil {
					return err
				}
				return os.WriteFile(request, digest, 0o600)
			}
			signed, err := readUpTo(signature, maxKeyFile)
			if err != nil {
				return fmt.Errorf("read signature: %w", err)
			}
			data, err := local.Recover(cmd.Context(), socket, args[0], signed)
			if err != nil {
				return err
			}
			return o.printSecret(args[0], data)
		},
	}
	cmd.Flags().StringVar(&request, "request", "", "write what is to be signed, 32 bytes, to this `FILE`")
	cmd.Flags().StringVar(&signature, "signature", "", "the signature in this `FILE`: ASN.1 of ECDSA, or PKCS #1 v1.5 of RSA")
	return cmd
}

// readPublicKey returns the SubjectPublicKeyInfo in a PEM file.
func readPublicKey(file string) ([]byte, error) {
	data, err := readUpTo(file, maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("read recovery key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("read recovery key: %s holds no PEM block PUBLIC KEY", file)
	}
	return block.Bytes, nil
}

func readUpTo(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}
