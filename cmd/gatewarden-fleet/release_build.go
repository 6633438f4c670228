package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/fleet/release"
	"github.com/gatewarden/gatewarden/internal/cli"
	target "github.com/gatewarden/gatewarden/update/release"
)

func releaseBuild(a *authoring) *cobra.Command {
	o := release.BuildOptions{}
	var deadline string
	var confirm []string
	cmd := &cobra.Command{
		Use:   "build",
		Short: "make a release from images",
		Long: `Cut the images into chunks, predict what booting them measures, sign PCR
policies for it, and put the release into the draft. Nothing that gateways see
changes until it is signed and published. Where the command line inside a UKI
names a slot, as with systemd-boot, give one for each: --uki-a and --uki-b.`,
		Example: `  gatewarden-fleet release build --dir repo --product edge --channel stable \
      --version 1.4.0 --epoch 1 --hardware "Acme G1" --rootfs root.img --uki gw.efi \
      --loader systemd-bootx64.efi --confirm disk=60 --confirm link --deadline 2030-06-01T00:00:00Z`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := parseConfirm(&o.Confirm, confirm); err != nil {
				return cli.NewUsageError(err)
			}
			if deadline != "" {
				var err error
				if o.Deadline, err = time.Parse(time.RFC3339, deadline); err != nil {
					return cli.NewUsageError(fmt.Errorf("--deadline: %w", err))
				}
			}
			r, err := release.Open(a.repo())
			if err != nil {
				return err
			}
			o.Progress = a.progress()
			built, err := r.Build(cmd.Context(), o)
			if err != nil {
				return err
			}
			return a.say(built, func(w io.Writer) { printBuilt(w, built) })
		},
	}
	buildFlags(cmd, &o)
	cmd.Flags().StringVar(&deadline, "deadline", "", "gateways that have not installed it by `TIME` (RFC 3339) are unhealthy")
	cmd.Flags().StringArrayVar(&confirm, "confirm", nil, "`CHECK=SECONDS`: this health check must be as good as before, within seconds of the boot; or link, or verdict; may be repeated")
	return cmd
}

func buildFlags(cmd *cobra.Command, o *release.BuildOptions) {
	f := cmd.Flags()
	f.StringVar(&o.Product, "product", "", "the `PRODUCT`")
	f.StringVar(&o.Channel, "channel", "stable", "the `CHANNEL`")
	f.StringVar(&o.Version, "version", "", "the `VERSION`, as in 1.4.0")
	f.Uint64Var(&o.Epoch, "epoch", 1, "security `EPOCH`: raise it to shut the way back for good")
	f.StringArrayVar(&o.Hardware, "hardware", nil, "a `MODEL` it runs on, as the gateway calls itself; may be repeated")
	f.StringVar(&o.MinSource, "min-source", "", "lowest `VERSION` that can install it directly")
	f.StringVar(&o.Rootfs, "rootfs", "", "image `FILE` of the root file system")
	f.StringVar(&o.UKI, "uki", "", "unified kernel image `FILE` for both slots; without any there are no reference values and no PCR policies")
	f.StringVar(&o.UKIA, "uki-a", "", "in its place, `FILE` for slot a alone, whose command line names the root of slot a; with --uki-b")
	f.StringVar(&o.UKIB, "uki-b", "", "`FILE` for slot b alone; with --uki-a")
	f.StringVar(&o.Loader, "loader", "", "systemd-boot `FILE` that starts the UKI, if one does")
	f.StringArrayVar(&o.Phases, "phases", nil, "boot-phase `PATH` in which secrets may open, may be repeated (default: sysinit and sysinit:ready)")
	f.BoolVar(&o.Unsigned, "no-pcr-policies", false, "sign no PCR policies: gateways seal their secrets to the boots that they know, one by one")
	f.Int64Var(&o.Confirm.Timeout, "confirm-timeout", 600, "`SECONDS` after the boot until the gateway goes back")
	f.StringVar(&o.Notes, "notes", "", "`TEXT` for people")
	for _, name := range []string{"product", "version", "hardware", "rootfs"} {
		_ = cmd.MarkFlagRequired(name) // the flag exists: it was made above
	}
	cmd.MarkFlagsRequiredTogether("uki-a", "uki-b")
	cmd.MarkFlagsMutuallyExclusive("uki", "uki-a")
}

func parseConfirm(c *target.Confirm, words []string) error {
	for _, word := range words {
		switch name, seconds, timed := strings.Cut(word, "="); {
		case word == "link":
			c.Link = true
		case word == "verdict":
			c.Verdict = true
		case timed:
			n, err := strconv.ParseInt(seconds, 10, 64)
			if err != nil {
				return fmt.Errorf("--confirm %s: %q is no number of seconds", word, seconds)
			}
			c.Checks = append(c.Checks, target.Criterion{Check: name, Within: n})
		default:
			return fmt.Errorf("--confirm %s: it is none of CHECK=SECONDS, link, verdict", word)
		}
	}
	return nil
}

// progress writes a line for each tenth of an image to standard error.
func (a *authoring) progress() func(what string, done, total int64) {
	last, tenth := "", int64(-1)
	return func(what string, done, total int64) {
		now := done * 10 / max(total, 1)
		if what == last && now == tenth {
			return
		}
		last, tenth = what, now
		fmt.Fprintf(a.stderr, "%s: %d %%\n", what, now*10)
	}
}

func printBuilt(w io.Writer, built *release.Built) {
	fmt.Fprintf(w, "%s is in the draft, with %d PCR policies\n\nIMAGE\tBYTES\tCHUNKS\tNEW\tNEW BYTES\n", built.Target, built.PCRPolicies)
	for _, image := range built.Images {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\n", image.Name(), image.Size, image.Chunks, image.Added, image.Packed)
	}
	if built.PCRPolicies == 0 {
		fmt.Fprintln(w, "\nWithout a UKI no secret opens in this release, and no reference values judge it.")
	}
	fmt.Fprintln(w, "\nnext: gatewarden-fleet release policy, sign, publish")
}

func releasePublish(a *authoring) *cobra.Command {
	var to string
	cmd := &cobra.Command{
		Use:   "publish",
		Short: "sign snapshot and timestamp, check all as gateways will, copy to the served folder",
		Long: `Sign the snapshot and the timestamp, look at the repository as a new gateway and
as one that knows what is served now, and copy what is new; the timestamp goes
last. What a gateway would refuse is not published. Run it every day, so that
the timestamp does not expire.`,
		Example: "  gatewarden-fleet release publish --dir repo --to /var/lib/gatewarden-fleet/tuf",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := release.Open(a.repo())
			if err != nil {
				return err
			}
			progress := a.progress()
			done, err := r.Publish(cmd.Context(), release.PublishOptions{To: to, Progress: func(n, total int64) { progress("chunks", n, total) }})
			if err != nil {
				return err
			}
			return a.say(done, func(w io.Writer) {
				printSigned(w, done.Roles)
				fmt.Fprintf(w, "\n%d files and %d chunks copied to %s\n", done.Files, done.Chunks, to)
			})
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "the served `FOLDER`")
	_ = cmd.MarkFlagRequired("to") // the flag exists: it was made above
	return cmd
}

func releaseWithdraw(a *authoring) *cobra.Command {
	var product, channel, version string
	cmd := &cobra.Command{
		Use:   "withdraw",
		Short: "offer a release no more; gateways that run it go on",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			r, err := release.Open(a.repo())
			if err != nil {
				return err
			}
			if err := r.Withdraw(product, channel, version); err != nil {
				return err
			}
			return a.say(map[string]string{"withdrawn": version}, func(w io.Writer) {
				fmt.Fprintf(w, "%s %s leaves channel %s with the next sign and publish\n", product, version, channel)
			})
		},
	}
	cmd.Flags().StringVar(&product, "product", "", "the `PRODUCT`")
	cmd.Flags().StringVar(&channel, "channel", "stable", "the `CHANNEL`")
	cmd.Flags().StringVar(&version, "version", "", "the `VERSION`")
	for _, name := range []string{"product", "version"} {
		_ = cmd.MarkFlagRequired(name) // the flag exists: it was made above
	}
	return cmd
}
