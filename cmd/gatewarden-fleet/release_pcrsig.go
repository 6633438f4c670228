package main

import (
	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/fleet/release"
)

func releasePCRSignature(a *authoring) *cobra.Command {
	var product, uki, loader string
	var phases []string
	cmd := &cobra.Command{
		Use:   "pcr-signature",
		Short: "write a tpm2-pcr-signature.json for systemd-cryptsetup",
		Long: `Write, to standard output, signatures by which systemd-cryptsetup and systemd-creds
open what was enrolled with the product's PCR-policy key over PCRs 11, 12 and 13, in
boots of this UKI. Put the file into the UKI as its section .pcrsig, which changes
none of the three, and build the release with that. systemd takes RSA keys only. The secrets of "gatewarden seal"
need none of it. Unlike those, what systemd seals knows no security epoch: an old UKI
that was signed so opens it for ever.

What /etc/crypttab names is opened before the first phase, by default. Where systemd
runs in the initrd too, that is phase enter-initrd, or enter-initrd:leave-initrd for
what is opened behind it: name it.`,
		Example: `  gatewarden-fleet release pcr-signature --dir repo --product edge --uki gw.efi --phases enter-initrd > sig.json
  ukify build --linux=vmlinuz --initrd=initrd --cmdline="..." --pcrsig=@sig.json --output=gw-signed.efi
  systemd-cryptenroll --tpm2-device=auto --tpm2-public-key=edge.pem --tpm2-public-key-pcrs=11+12+13 /dev/sda4`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			r, err := release.Open(a.repo())
			if err != nil {
				return err
			}
			data, err := r.SystemdSignatures(product, uki, loader, phases)
			if err != nil {
				return err
			}
			_, err = a.stdout.Write(data)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&product, "product", "", "the `PRODUCT`")
	f.StringVar(&uki, "uki", "", "unified kernel image `FILE`")
	f.StringVar(&loader, "loader", "", "systemd-boot `FILE` that starts the UKI, if one does")
	f.StringArrayVar(&phases, "phases", nil, "boot-phase `PATH` in which it may open, may be repeated (default: before all of them, sysinit, and sysinit:ready)")
	for _, name := range []string{"product", "uki"} {
		_ = cmd.MarkFlagRequired(name) // the flag exists: it was made above
	}
	return cmd
}
